"""What a server's answers mean, whatever pieces they come in."""

import json
from dataclasses import replace
from itertools import pairwise
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_slmperf.core.answers import NOT_FINITE
from pytest_slmperf.core.engine import Request
from pytest_slmperf.core.errors import RequestFailed
from pytest_slmperf.engines.openai_api import (
    WORDS,
    Dialect,
    Reading,
    body_of,
    counters_of,
    message_of,
    models_of,
    refusal_of,
    shown,
    text_of,
    version_of,
)

ASKED = Request(tuple(range(20, 28)), 3)
IDS = Dialect("tiny")
CHAT = Dialect("tiny", api="chat", ids=False)


def event(text=None, *, delta=None, finish=None, ids=None, usage=None, model="tiny", **rest):
    choice = {"index": 0, "finish_reason": finish}
    choice |= {"text": text} if text is not None else {}
    choice |= {"delta": delta} if delta is not None else {}
    choice |= {"token_ids": ids} if ids is not None else {}
    body = {"model": model, "choices": [] if text is None and delta is None else [choice], "usage": usage, **rest}
    return f"data: {json.dumps(body)}\n\n".encode()


def used(prompt=8, output=3, cached=None):
    details = {} if cached is None else {"prompt_tokens_details": {"cached_tokens": cached}}
    return {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output, **details}


END = event(usage=used()) + b"data: [DONE]\n\n"
PLAIN = event(" a") + event(" b") + event(" c", finish="length") + END


def read(*pieces, dialect=IDS, request=ASKED):
    """The answer, and the tokens of each part."""
    parts = []
    reading = Reading(request, dialect, parts.append)
    for piece in pieces:
        reading.feed(piece)
    return reading.end(), parts


def test_an_answer_is_its_parts_and_its_counts():
    """A part is a token or several, and the server says how many there were."""
    answer, parts = read(PLAIN)
    assert (answer.output_tokens, answer.prompt_tokens, answer.cached_tokens) == (3, 8, 0)
    assert parts == [0, 0, 0]


@given(st.lists(st.integers(0, len(PLAIN)), max_size=6))
def test_where_it_is_cut_makes_no_difference(cuts):
    """The network knows no events."""
    places = [0, *sorted(cuts), len(PLAIN)]
    assert read(*(PLAIN[begin:end] for begin, end in pairwise(places))) == read(PLAIN)


@pytest.mark.parametrize(
    "stream",
    [
        PLAIN.replace(b"\n", b"\r\n"),
        PLAIN.replace(b"data: ", b"data:"),
        b": ping\n\n" + PLAIN.replace(b"data: ", b"event: message\nid: 7\ndata: "),
        PLAIN[:-2],
        PLAIN.removesuffix(b"data: [DONE]\n\n"),
        event(" a", usage=used(output=1)) + event(" b", usage=used(output=2)) + event(" c", finish="length") + END,
        PLAIN.replace(b'"model": "tiny", ', b""),
    ],
    ids=["crlf", "no blank", "comments and fields", "no last line break", "no [DONE]", "usage all along", "no model"],
)
def test_ways_of_writing_that_mean_the_same(stream):
    """As servers of several projects write it."""
    assert read(stream) == read(PLAIN)


def test_token_ids_tell_how_many_tokens_a_part_has():
    """And whether it has any at all."""
    stream = event("", ids=[]) + event(" a b", ids=[5, 6]) + event("", ids=[7], finish="length") + END
    assert read(stream)[1] == [2, 1]


def test_a_token_without_a_text_counts():
    """Half of a character has none, and a server without a tokenizer sends none at all."""
    assert read(event("") + event("") + event("", finish="length") + END)[1] == [0, 0, 0]


def test_an_end_of_its_own_is_no_token():
    """Some servers say in a part of its own that an answer has ended."""
    stream = event(" a") + event(" b") + event(" c") + event("", finish="length") + END
    assert len(read(stream)[1]) == 3
    assert len(read(event(" a") + event(" b") + event("", finish="stop") + event(usage=used(output=2)))[1]) == 2


def test_a_chat_opens_with_a_role():
    """That is no output; what a model thinks is."""
    stream = event(delta={"role": "assistant", "content": ""}) + event(delta={"reasoning_content": "hm"})
    stream += event(delta={"content": " b"}) + event(delta={"content": " c"}) + event(delta={}, finish="length") + END
    assert len(read(stream, dialect=CHAT)[1]) == 3


def test_what_came_from_a_cache_is_told():
    """Where the server tells it."""
    assert read(event(" a", finish="length") + event(usage=used(output=1, cached=6)))[0].cached_tokens == 6


@pytest.mark.parametrize(
    ("stream", "why"),
    [
        (event(" a"), "broke off after 1 parts"),
        (PLAIN[:40], "none of the API"),
        (b"data: {\n\n", "none of the API"),
        (b'data: {"choices": 3}\n\n', "none of the API"),
        (b"data: \xff\n\n", "none of the API"),
        (event(" a") + b'data: {"error": {"message": "out of\\nmemory", "code": 500}}\n\n', "an error: out of memory"),
        (b'data: {"object": "error", "message": "old style", "code": 400}\n\n', "an error: old style"),
        (PLAIN.replace(END, b"data: [DONE]\n\n"), "doesn't say how many tokens"),
        (event(" a", finish="length") + event(usage=used(output=4)), "counts 4 tokens where 3 were asked for"),
        (PLAIN.replace(END, event(usage=used(output=0))), "counts 0 tokens, and sent 3 parts"),
        (event(usage=used()) + b"data: [DONE]\n\n", "counts 3 tokens, and no part"),
        (event(" a") * 6, "no end: 3 tokens were asked for"),
        (event(" a", finish="length") + event(usage=used(prompt=80, output=1)), "read 80 prompt tokens where 8 were"),
        (b"", "broke off after 0 parts"),
    ],
)
def test_an_answer_that_is_none(stream, why):
    """A failed request is never a fast one, and says why it failed."""
    with pytest.raises(RequestFailed, match=why):
        read(stream)


def test_another_model():
    """Answers of two models are no measurement, nor is one that two have had a part in."""
    with pytest.raises(RequestFailed, match="another model answered: huge, where tiny did before"):
        read(event(" a", model="huge"), dialect=Dialect("tiny", answers_as="tiny"))
    with pytest.raises(RequestFailed, match="another model answered: huge, where tiny did before"):
        read(event(" a", model="tiny") + event(" b", model="huge"))


def test_a_request_asks_for_what_is_needed():
    """Its counts, its length, and the prompt in the way that the server takes."""
    body = json.loads(body_of(ASKED, IDS))
    assert body["prompt"] == list(ASKED.prompt)
    assert body["stream_options"] == {"include_usage": True}
    assert (body["max_tokens"], body["min_tokens"], body["ignore_eos"], body["stream"]) == (3, 3, True, True)
    assert "return_token_ids" not in body
    chat = json.loads(body_of(ASKED, Dialect("tiny", api="chat", ids=False, forced=False, token_ids=True)))
    assert chat["messages"][0]["content"] == text_of(ASKED.prompt, CHAT)
    assert "ignore_eos" not in chat
    assert chat["return_token_ids"] is True


def test_a_text_has_as_many_tokens_as_the_server_will_count():
    """By what it counted for two texts: so many a word, and so many besides."""
    prompt = tuple(range(200))
    measured = Dialect("tiny", ids=False, tokens_per_word=1.25, tokens_besides=10)
    assert len(text_of(prompt, measured).split()) == 152
    assert set(text_of(prompt, measured).split()) <= set(WORDS)
    assert text_of(prompt, measured) != text_of(prompt[1:], measured)
    with pytest.raises(RequestFailed, match="a prompt of 8 tokens is impossible: the server puts 10 around it"):
        text_of(ASKED.prompt, measured)


def test_a_text_may_be_a_little_off():
    """Its tokenizer is on the server; by more than 5 % it is another load."""
    long = Request(tuple(range(200)), 3)
    measured = Dialect("tiny", ids=False, tokens_per_word=1.0)
    ending = event(" a", finish="length")
    assert read(ending + event(usage=used(208, 1)), dialect=measured, request=long)[0].prompt_tokens == 208
    with pytest.raises(RequestFailed, match="read 220 prompt tokens where 200"):
        read(ending + event(usage=used(220, 1)), dialect=measured, request=long)


VLLM = """# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a } b"} 3.0
vllm:num_requests_running{engine="1",model_name="a } b"} 2.0
vllm:num_requests_waiting{engine="0",model_name="x"} 1.0 1763769600000
vllm:num_preemptions_created{engine="0"} 1.7e9
vllm:num_preemptions_total{engine="0"} 4.0
vllm:prefix_cache_hits_total{engine="0"} 1.6e+01
vllm:prefix_cache_queries_total{engine="0"} 64.0
process_start_time_seconds 1.76e9
process_start_time_seconds_of_another 3
"""


def test_counters_have_the_names_of_several_servers():
    """Summed over the replicas of a model; what nobody asked for is left."""
    assert counters_of(VLLM) == {
        "running": 5.0, "waiting": 1.0, "preemptions": 4.0, "cached_tokens": 16.0, "queried_tokens": 64.0,
        "started_at": 1.76e9,
    }  # fmt: skip
    assert counters_of('sglang:num_queue_reqs{a="b"} 2\nllamacpp:requests_processing 1\n') == {
        "waiting": 2,
        "running": 1,
    }
    assert counters_of("llamacpp:prompt_tokens_cached_total 3\n") == {"cached_tokens": 3}
    assert counters_of("") == {}


def test_errors_are_read_in_whichever_form_they_come():
    """As vLLM, Ollama, FastAPI and gateways write them."""
    assert message_of({"error": {"message": "no\nroom", "code": 400}}) == "no room"
    assert message_of({"error": "model not found"}) == "model not found"
    assert message_of({"detail": [{"msg": "missing"}]}) == "[{'msg': 'missing'}]"
    assert message_of({"code": 7}) == "{'code': 7}"
    assert refusal_of(b"<html>\n<body>Bad Gateway</body>") == "<html> <body>Bad Gateway</body>"
    assert refusal_of(b"") == ""
    assert shown("x" * 1000) == "x" * 300 + "…"


def test_models_and_versions_are_read():
    """And what is neither is no surprise."""
    for said in ('"max_model_len": 7', '"meta": {"n_ctx": 7, "n_ctx_train": 9}'):  # vLLM, llama.cpp
        (model,) = models_of(f'{{"object": "list", "data": [{{"id": "a", {said}, "extra": 1}}]}}'.encode())
        assert model.context_tokens == 7
    (model,) = models_of(b'{"data": [{"id": "a", "meta": "its own"}]}')
    assert model.context_tokens is None
    assert version_of(b'{"version": "0.10.2"}') == "0.10.2"
    assert version_of(b'{"build_info": "b6000-abc", "total_slots": 4}') == "b6000-abc"
    assert version_of(b"<html>") == ""
    for wrong in (b"", b"[]", b'{"data": null}', b'{"data": [{"id": 3}]}', b"<html>"):
        with pytest.raises(ValueError, match=r".+"):
            models_of(wrong)


# Which tokens they are


def kept(*pieces, dialect=IDS):
    """The tokens that an answer tells."""
    reading = Reading(ASKED, dialect, lambda _: None, keeps=True)
    for piece in pieces:
        reading.feed(piece)
    reading.end()
    return reading.tokens


def part(told, ids=None, text=" a"):
    """A part of a completion with scores."""
    choice = {"index": 0, "text": text, "logprobs": told, **({"token_ids": ids} if ids else {})}
    return f"data: {json.dumps({'model': 'tiny', 'choices': [choice]})}\n\n".encode()


CLOSED = event("", finish="length") + END
LISTED = {"tokens": [" a", " b"], "token_logprobs": [-0.1, -2]}
CONTENT = {"content": [{"token": " a", "logprob": -0.1}, {"token": " b", "logprob": -2}]}
NUMBERED = {"content": [{"id": 7, "token": " a", "logprob": -0.1}, {"id": 8, "token": " b", "logprob": None}]}
A, B = crc32(b" a"), crc32(b" b")


@pytest.mark.parametrize(
    ("parts", "tokens"),
    [
        ([part(None, ids=[5, 6])], [5, 6]),
        ([part(LISTED)], [A, B]),
        ([part(LISTED, ids=[5, 6])], [5, 6]),
        ([part(CONTENT), part(LISTED)], [A, B, A, B]),
        ([part(NUMBERED)], [7, NOT_FINITE]),
        ([part({**LISTED, "token_logprobs": [None, -1]})], [NOT_FINITE, B]),
        ([part(None)], []),
        ([part("odd")], []),
        ([part({})], []),
    ],
)
def test_tokens_are_told_by_id_or_else_by_text(parts, tokens):
    """In each form that servers give them; one without a finite score counts as none."""
    assert kept(*parts, CLOSED) == tokens


@pytest.mark.parametrize(("dialect", "asked"), [(IDS, 1), (CHAT, True)])
def test_scores_are_asked_for_as_each_api_wants_it(dialect, asked):
    """Only where tokens are to be told."""
    assert "logprobs" not in json.loads(body_of(ASKED, dialect))
    assert json.loads(body_of(ASKED, replace(dialect, logprobs=True)))["logprobs"] == asked
