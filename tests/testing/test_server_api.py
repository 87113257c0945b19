"""The testing server answers as vLLM's does."""

from dataclasses import fields

import pytest
from asking import ask, request

from pytest_slmperf.core.errors import UsageError
from pytest_slmperf.testing import server as server_package
from pytest_slmperf.testing.server import Options


def test_a_completion_is_streamed_token_by_token(server):
    """Each token is an event of its own; the last says why it is the last, then come the usage and the end."""
    answer = ask(server, tokens=4)
    assert answer.kind == "text/event-stream; charset=utf-8"
    assert answer.text == " w0 w1 w2 w3"
    assert [event["choices"][0]["finish_reason"] for event in answer.tokens] == [None, None, None, "length"]
    assert {event["object"] for event in answer.events} == {"text_completion"}
    assert {event["model"] for event in answer.events} == {"tiny"}
    assert len({event["id"] for event in answer.events}) == 1
    assert answer.usage == {"prompt_tokens": 3, "total_tokens": 7, "completion_tokens": 4}
    assert answer.done


def test_usage_comes_only_where_it_is_asked_for(server):
    """At the end, in every chunk, or nowhere."""
    assert ask(server, stream_options=None).usage is None
    answer = ask(server, tokens=3, stream_options={"include_usage": True, "continuous_usage_stats": True})
    assert [event["usage"]["completion_tokens"] for event in answer.tokens] == [1, 2, 3]


def test_a_chat_is_streamed(server):
    """It begins with a role and no token; the text is in deltas, and a word of a message is a token."""
    body = {"model": "tiny", "messages": [{"role": "user", "content": "say it now"}], "max_completion_tokens": 2}
    answer = request(server, "/v1/chat/completions", body | {"stream": True, "stream_options": {"include_usage": True}})
    deltas = [event["choices"][0]["delta"] for event in answer.tokens]
    assert deltas == [{"role": "assistant", "content": ""}, {"content": " w0"}, {"content": " w1"}]
    assert {event["object"] for event in answer.events} == {"chat.completion.chunk"}
    assert answer.usage["prompt_tokens"] == 3
    assert answer.done
    parts = [{"role": "user", "content": [{"type": "text", "text": "in two"}, {"type": "text", "text": "parts"}]}]
    whole = request(server, "/v1/chat/completions", {"messages": parts, "max_tokens": 2}).json
    assert whole["choices"][0]["message"] == {"role": "assistant", "content": " w0 w1"}
    assert (whole["object"], whole["usage"]["prompt_tokens"]) == ("chat.completion", 3)


def test_an_answer_comes_in_one_piece_where_no_stream_is_asked_for(server):
    """With its usage."""
    whole = ask(server, tokens=3, stream=False).json
    assert whole["choices"][0]["text"] == " w0 w1 w2"
    assert whole["choices"][0]["finish_reason"] == "length"
    assert whole["usage"]["completion_tokens"] == 3


@pytest.mark.parametrize("prompt", ["four words of text", ["four words of text"], [[1, 2, 3, 4]], [1, 2, 3, 4]])
def test_a_prompt_is_text_or_token_ids(server, prompt):
    """A word counts as a token."""
    answer = request(server, "/v1/completions", {"prompt": prompt, "max_tokens": 1})
    assert answer.json["usage"]["prompt_tokens"] == 4


def test_token_ids_come_back_where_they_are_asked_for(server):
    """Those of a chunk with it, those of the prompt with the first."""
    answer = ask(server, tokens=2, prompt=(7, 8), return_token_ids=True)
    assert [event["choices"][0]["token_ids"] for event in answer.tokens] == [[100], [101]]
    assert [event["choices"][0].get("prompt_token_ids") for event in answer.tokens] == [[7, 8], None]


def test_an_answer_may_end_before_it_is_full(serve):
    """A model stops where it likes, but where it is told not to."""
    server = serve(natural_tokens=3)
    body = {"prompt": [1], "max_tokens": 8}
    stopped = request(server, "/v1/completions", body).json
    assert (stopped["usage"]["completion_tokens"], stopped["choices"][0]["finish_reason"]) == (3, "stop")
    for forced in ({"ignore_eos": True}, {"min_tokens": 8}):
        assert request(server, "/v1/completions", body | forced).json["usage"]["completion_tokens"] == 8


def test_tokens_may_share_a_chunk(serve):
    """The last chunk has what is left."""
    server = serve(tokens_per_chunk=4)
    answer = ask(server, tokens=10)
    assert [event["choices"][0]["text"].split() for event in answer.tokens] == [
        ["w0", "w1", "w2", "w3"], ["w4", "w5", "w6", "w7"], ["w8", "w9"],
    ]  # fmt: skip
    assert server.received(1)[0].chunk_tokens == [4, 4, 2]


def test_it_says_what_it_serves(server):
    """Its model with the length of its context, its health and its version."""
    (card,) = request(server, "/v1/models").json["data"]
    assert (card["id"], card["max_model_len"]) == ("tiny", 4096)
    assert request(server, "/health").status == 200
    assert request(server, "/version").json == {"version": "0"}


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"{", 400, "no JSON"),
        (b"[]", 400, "no JSON object"),
        ({"prompt": "a", "model": "opt-125m"}, 404, "The model `opt-125m` does not exist."),
        ({"prompt": ""}, 400, "not empty"),
        ({"prompt": [1, "a"]}, 400, "one text or one list"),
        ({"prompt": None}, 400, "one text or one list"),
        ({"prompt": ["two", "prompts"]}, 400, "one text or one list"),
        ({"prompt": [[1], [2]]}, 400, "one text or one list"),
        ({"prompt": [1.5]}, 400, "one text or one list"),
        ({"prompt": "a", "max_tokens": 0}, 400, "at least 1"),
        ({"prompt": "a", "max_tokens": -1}, 400, "at least 1"),
        ({"prompt": "a", "n": 2}, 400, "one answer"),
        ({"prompt": list(range(4000)), "max_tokens": 100}, 400, "maximum context length is 4096 tokens"),
    ],
)
def test_what_can_not_be_served_is_refused(server, body, status, said):
    """With an error object that says why."""
    answer = request(server, "/v1/completions", body)
    assert answer.status == status
    assert said in answer.json["error"]["message"]
    assert answer.json["error"]["code"] == status


def test_a_key_is_asked_for_where_there_is_one(serve):
    """Of requests, not of those who look after the server."""
    server = serve(api_key="sesame")
    body = {"prompt": "a", "max_tokens": 1}
    for key in (None, "wrong"):
        assert request(server, "/v1/completions", body, key=key).status == 401
        assert request(server, "/v1/models", key=key).status == 401
    assert request(server, "/v1/completions", body, key="sesame").status == 200
    assert request(server, "/health").status == request(server, "/metrics").status == 200


@pytest.mark.parametrize(
    "options",
    [
        {"step_s": -1}, {"noise": float("nan")}, {"reset": 1.5}, {"max_batch": 0}, {"kv_tokens": 0}, {"processes": 2},
        {"reset": 1, "null": True},
    ],
)  # fmt: skip
def test_options_that_can_not_be_are_refused(options):
    """Before anything is started."""
    with pytest.raises(UsageError, match=next(iter(options))):
        Options(**options)


def test_every_option_is_described():
    """In the package's docstring, which is also the command's help."""
    described = server_package.__doc__
    for one in fields(Options):
        assert f"`{one.name}`" in described, one.name
