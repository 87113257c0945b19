"""The openai engine against servers on real sockets: the testing server with all its faults, and a peculiar one."""

import sys
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from zlib import crc32

import pytest
from peculiar_server import peculiar

from pytest_slmperf.core.engine import EngineSpec, Request
from pytest_slmperf.core.errors import EngineFailed, EngineUnavailable, RequestFailed
from pytest_slmperf.core.launch import RoundPolicy
from pytest_slmperf.engines import openai, openai_options, vllm
from pytest_slmperf.engines.server import free_port, taken
from pytest_slmperf.testing import conforms
from pytest_slmperf.testing.server import Options, serving

QUICK = {"step_s": 0.001, "step_request_s": 0, "prefill_token_s": 0}
COMMAND = f"{sys.executable} -m pytest_slmperf.testing.server --port {{port}} --model {{model}} --step-s 0.001"
FRONTED = Path(__file__).with_name("fronted_server.py")
KEY = "sk-0123456789"
ASKED = Request(tuple(range(20, 36)), 8)


@pytest.fixture(scope="module")
def tiny():
    """A server without faults, for all tests that want none."""
    with serving(Options(**QUICK)) as server:
        yield server


@pytest.fixture
def serve():
    """Start a server with options of the test's own."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(serving(Options(**{**QUICK, **options})))


@pytest.fixture
def engine():
    """Make an engine, which is stopped at the end."""
    engines = []

    def make(url=None, *, model="tiny", **options):
        given = {**({"url": url} if url else {}), **options}
        engines.append(openai.create(EngineSpec("openai", model, options=given)))
        return engines[-1]

    yield make
    for one in engines:
        one.stop()


@pytest.fixture(autouse=True)
def _no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def asked(engine, request=ASKED):
    """The answer to one request, and when its parts came."""
    stamps = []
    return engine.run(engine.stream(request, lambda tokens: stamps.append((time.monotonic_ns(), tokens)))), stamps


# What it measures


@pytest.mark.parametrize("api", ["completions", "chat"])
def test_it_keeps_the_protocol_of_an_engine(tiny, api):
    """Static batches of unlike lengths get exactly their tokens, in both APIs."""
    conforms(openai.create, EngineSpec("openai", "tiny", options={"url": tiny.url, "api": api}))


def test_it_says_what_it_found(tiny, engine):
    """Version, model and context are the server's own; the way it is asked is a setting."""
    facts = engine(tiny.url).start()
    assert (facts.version, facts.weights, facts.context_tokens) == ("vllm 0", "served:tiny", 4096)
    assert (facts.device, facts.dtype, facts.vocabulary) == ("cpu", "as served", 1000)
    assert facts.settings == {"prompts": "ids", "ignore_eos": True, "token_ids": True}
    assert not facts.compiles
    assert not facts.own_process


def test_a_server_may_only_simulate(tiny, engine):
    """Then it is no device of this machine, and says how long its start took."""
    facts = engine(tiny.url, device="simulated").start()
    assert facts.device == "simulated"
    assert 0 < facts.startup_s < 10


def test_each_part_is_stamped_when_it_comes(serve, engine):
    """As late after the server sent it as a part takes to be read, and never before."""
    server = serve(step_s=0.005)
    client = engine(server.url)
    client.start()
    answer, stamps = asked(client)
    truth = server.received(requests=3)[-1]
    assert answer.output_tokens == truth.output_tokens == 8
    assert answer.prompt_tokens == truth.prompt_tokens == 16
    late_ns = [at - sent for (at, _), sent in zip(stamps, truth.chunk_ns, strict=True)]
    assert min(late_ns) >= 0
    assert median(late_ns) < 5e6


def test_requests_are_under_way_at_the_same_time(serve, engine):
    """A batch is served by the server as one batch."""
    server = serve(step_s=0.01)
    client = engine(server.url)
    client.start()
    client.serve([ASKED] * 4, observe=False)
    batch = server.received(requests=6)[2:]
    assert max(one.received_ns for one in batch) < min(one.chunk_ns[-1] for one in batch)


def test_several_tokens_in_a_part(serve, engine):
    """The server says how many there are."""
    client = engine(serve(tokens_per_chunk=3).url)
    assert client.start().settings["token_ids"] is True
    assert [tokens for _, tokens in asked(client)[1]] == [3, 3, 2]


def test_counters_are_read(tiny, engine):
    """By the names of COUNTERS; where there are none, nothing is said."""
    client = engine(tiny.url)
    client.start()
    assert client.run(client.counters()).keys() >= {"running", "waiting", "preemptions", "started_at"}
    with serving(Options(null=True)) as server:
        silent = engine(server.url)
        silent.start()
        assert silent.run(silent.counters()) == {}


def test_a_front_end_is_watched_where_an_engine_is_behind_it(tiny, engine):
    """From one look to the next; a server that is one process has none."""
    fronted = engine(command=COMMAND.replace("-m pytest_slmperf.testing.server", str(FRONTED)))
    alone = engine(tiny.url)
    for client in (fronted, alone):
        client.start()
        assert client.front_end() is None
        client.serve([ASKED] * 8, observe=False)
    assert 0 < fronted.run(fronted.counters())["front_end"] < 1.1
    assert alone.front_end() is None


def test_a_prefix_cache_is_told(serve, engine):
    """From usage, request by request."""
    client = engine(serve(prefix_cache=True).url)
    client.start()
    long = Request(tuple(range(20, 84)), 2)
    assert asked(client, long)[0].cached_tokens == 0
    assert asked(client, long)[0].cached_tokens > 0


def test_a_server_that_takes_neither_ids_nor_a_length(engine):
    """Prompts are then texts of so many tokens by its own count, and answers may be short."""
    with peculiar(tokens_per_word=1.25, tokens_besides=12, natural_tokens=5) as url:
        client = engine(url, served_model="peculiar")
        facts = client.start()
        assert facts.settings == {"prompts": "text", "ignore_eos": False}
        answer, _ = asked(client, Request(tuple(range(20, 120)), 8))
    assert abs(answer.prompt_tokens - 100) <= 1
    assert answer.output_tokens == 5


def test_a_server_that_breaks_off_unannounced_gets_a_connection_for_each_request(engine):
    """No request is sent on a connection that is about to end, however soon it follows."""
    with peculiar(tokens_per_word=1, tokens_besides=0, natural_tokens=4, breaks_off=True) as url:
        client = engine(url, served_model="peculiar")
        assert client.start().settings["keep_alive"] is False
        for _ in range(20):
            answer, _ = asked(client, Request(tuple(range(20, 30)), 4))
            assert answer.output_tokens == 4


def test_the_context_may_be_said(tiny, engine):
    """The option outdoes the server."""
    assert engine(tiny.url, context_tokens=512, vocabulary=300).start().context_tokens == 512


# Where the server is


def test_no_server_at_all(engine):
    """The error names the address."""
    url = f"http://127.0.0.1:{free_port()}/v1"
    with pytest.raises(EngineUnavailable, match=f"{url}: nobody answers there"):
        engine(url).start()


def test_neither_an_address_nor_a_command(engine):
    """One of them is needed."""
    with pytest.raises(EngineUnavailable, match=r"needs url=http://HOST:PORT/v1, or command="):
        engine()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"url": "127.0.0.1:8000"}, "is no address of an API"),
        ({"url": "http://127.0.0.1:99999/v1"}, "is no address of an API"),
        ({"url": "ftp://127.0.0.1/v1"}, "is no address of an API"),
        ({"url": "http://me:secret@10.0.0.1/v1"}, "no name or password belongs into it"),
        ({"command": "serve --port 8000"}, "no {port} to fill in"),
        ({"command": "serve --port {port} --api-key sk-1"}, "no key belongs into it"),
        ({"command": "serve --port {port} --api_key=sk-1"}, "no key belongs into it"),
        ({"command": "serve", "url": "http://10.0.0.1:8000/v1"}, "is on this machine"),
        ({"command": "serve", "url": "http://127.0.0.1/v1"}, "is on this machine, at a port"),
        ({"url": "http://127.0.0.1:8000/v1", "api": "responses"}, "completions, chat"),
        ({"url": "http://127.0.0.1:8000/v1", "device": "tpu"}, "cpu, cuda, simulated"),
        ({"url": "http://10.0.0.1:8000/v1", "device": "cuda"}, "is on another"),
        ({"url": "http://127.0.0.1:8000/v1", "key_env": "NO_SUCH_KEY"}, "no such variable"),
        ({"url": "http://127.0.0.1:8000/v1", "modell": "x"}, "has no option 'modell'"),
    ],
)
def test_options_that_cannot_be(engine, options, why):
    """Nothing is started, and a key that would be recorded is refused."""
    with pytest.raises(EngineUnavailable, match=why) as refused:
        engine(**options)
    assert "secret" not in str(refused.value)


def test_a_server_that_still_loads_is_waited_for(serve, engine):
    """Until it says that it is ready."""
    server = serve(ready_after_s=0.6)
    began_s = time.monotonic()
    engine(server.url).start()
    assert time.monotonic() - began_s > 0.2


def test_a_server_that_is_never_ready(serve, engine):
    """The error says what it answered, and for how long."""
    with pytest.raises(EngineFailed, match=r"not ready within 0.5 s \(HTTP 503\)"):
        engine(serve(never_ready=True).url, start_limit_s=0.5).start()


def test_an_address_that_is_none_of_an_api(tiny, engine):
    """As one without its /v1."""
    with pytest.raises(EngineUnavailable, match=r"lists no models \(HTTP 404.*with its /v1"):
        engine(tiny.address).start()


def test_another_model_than_was_meant(tiny, engine):
    """What it serves is named, and how to say that it is meant."""
    with pytest.raises(EngineUnavailable, match="serves tiny, and not opt-125m: served_model=NAME"):
        engine(tiny.url, model="opt-125m").start()
    with pytest.raises(EngineUnavailable, match="serves tiny, and not huge"):
        engine(tiny.url, served_model="huge").start()
    assert engine(tiny.url, model="opt-125m", served_model="tiny").start().weights == "served:tiny"


def test_a_proxy_in_the_environment_is_not_used_for_this_machine(tiny, engine, monkeypatch):
    """It would be measured, too; where nobody answers, that is said."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    engine(tiny.url, proxy=True).start()
    with pytest.raises(EngineUnavailable, match="HTTP_PROXY is set, and isn't used for this machine"):
        engine(f"http://127.0.0.1:{free_port()}/v1").start()


# Keys and certificates


def test_a_server_that_needs_a_key(serve, engine, monkeypatch):
    """Without one, or with a wrong one, the error says where it is read, and never what it is."""
    server = serve(api_key=KEY)
    with pytest.raises(EngineUnavailable, match=r"lets nobody in without a key \(HTTP 401.*OPENAI_API_KEY.*key_env"):
        engine(server.url).start()
    monkeypatch.setenv("MY_KEY", "wrong-key")
    with pytest.raises(EngineUnavailable, match="and not with that of MY_KEY") as refused:
        engine(server.url, key_env="MY_KEY").start()
    assert "wrong-key" not in str(refused.value)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    facts = engine(server.url).start()
    assert KEY not in repr(facts)


def test_a_key_that_no_header_can_hold(tiny, engine, monkeypatch):
    """It isn't sent, and not shown."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk\n1")
    with pytest.raises(EngineUnavailable, match="OPENAI_API_KEY has characters that no header may hold"):
        engine(tiny.url)


def test_a_started_server_gets_its_key_from_the_environment(engine, monkeypatch):
    """Its command holds a place for it."""
    monkeypatch.setenv("MY_KEY", KEY)
    client = engine(command=f"{COMMAND} --api-key {{key}}", key_env="MY_KEY")
    client.start()
    assert asked(client)[0].output_tokens == 8


def test_a_certificate_that_nobody_knows(serve, engine, tmp_path):
    """It is refused, unless its authority is named or any is trusted."""
    authority = tmp_path / "authority.pem"
    server = serve(tls=True, tls_authority=str(authority))
    with pytest.raises(EngineUnavailable, match=r"certificate isn't trusted.*ca=FILE.*verify=false"):
        engine(server.url).start()
    engine(server.url, ca=str(authority)).start()
    engine(server.url, verify=False).start()
    with pytest.raises(EngineUnavailable, match=r"ca=.*nowhere: no certificates"):
        engine(server.url, ca=str(tmp_path / "nowhere")).start()


# Servers that it starts


def test_a_command_starts_a_server_and_ends_it(engine):
    """On a free port, with the model's name filled in."""
    client = engine(command=COMMAND, model="my/tiny")
    facts = client.start()
    assert facts.weights == "served:my/tiny"
    assert asked(client)[0].output_tokens == 8
    port = int(client._url.rpartition(":")[2].removesuffix("/v1"))
    assert taken("127.0.0.1", port)
    client.stop()
    assert not taken("127.0.0.1", port)


@pytest.mark.parametrize(
    ("fault", "error", "why"),
    [
        ("--refuses-model", EngineFailed, r"ended before it was ready \(exit code 1\).*'tiny' are not supported"),
        ("--out-of-memory", MemoryError, r"(?s)ended before it was ready.*[Mm]emory"),
        ("--never-ready", EngineFailed, r"not ready within 2 s \(HTTP 503\)"),
        ("--no-such-option", EngineFailed, r"(?s)exit code 2.*no-such-option"),
    ],
)
def test_a_start_that_fails_says_why(engine, fault, error, why):
    """With the end of the server's log."""
    with pytest.raises(error, match=f"(?s){why}"):
        engine(command=f"{COMMAND} {fault}", start_limit_s=2.0 if "never" in fault else 60.0).start()


def test_a_leftover_server_is_not_measured(tiny, engine):
    """What listens at the address before the server is started is another one: of an earlier crash, or of a second
    engine that was given the same address by mistake.
    """
    command = COMMAND.replace("{port}", str(tiny.port))
    with pytest.raises(EngineFailed, match=r"somebody listens at .* before the server was started, maybe a server"):
        engine(tiny.url, command=command).start()


def test_a_server_that_dies_in_the_middle(engine):
    """Whatever it is asked then fails with how it died, and not as a broken connection."""
    client = engine(command=f"{COMMAND} --dies-after 2")
    client.start()
    with pytest.raises(EngineFailed, match="died: signal SIGKILL"):
        asked(client)


def test_a_started_server_keeps_its_log(engine, tmp_path):
    """Where the option says."""
    log = tmp_path / "server.log"
    client = engine(command=COMMAND, log=str(log))
    client.start()
    assert log.read_text().startswith("http://127.0.0.1:")


def test_a_started_server_has_its_own_peak_of_memory(engine, tiny):
    """Of its process, not of the one that sends; of a server that somebody else started, nobody knows."""
    client = engine(command=COMMAND)
    client.start()
    peak = client.serve([ASKED], observe=False).peak_memory_bytes
    assert 5e6 < peak < 200e6
    other = engine(tiny.url)
    other.start()
    assert other.serve([ASKED], observe=False).peak_memory_bytes is None


# Faults of single requests


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("reset", "the connection broke after 4 parts"),
        ("half_event", "the connection broke after 4 parts"),
        ("cut", "broke off after 4 parts"),
        ("wrong_usage", "counts 9 tokens where 8 were asked for"),
        ("no_usage", "doesn't say how many tokens"),
        ("too_many_requests", "HTTP 429: Too many requests; try again later"),
        ("unavailable", "HTTP 503: The service is temporarily unavailable"),
        ("server_error", "HTTP 500: EngineCore encountered an issue"),
        ("endless", "has no end: 8 tokens were asked for, and more come"),
        ("html", "text/html.* where a stream of events belongs: .*It works"),
        ("broken_json", "an event that is none of the API"),
        ("error_event", "broke off with an error: EngineCore encountered an issue"),
        ("other_model", "another model answered: another-model, where tiny did before"),
        ("hang", "no whole answer within 0.5 s"),
    ],
)
def test_a_request_that_fails_says_why(serve, engine, fault, why):
    """The first request after those of the start meets the fault; those before and after are answered."""
    client = engine(serve(**{fault: 3}).url, request_limit_s=0.5)
    client.start()
    with pytest.raises(RequestFailed, match=why):
        asked(client)
    assert asked(client)[0].output_tokens == 8


def test_an_answer_shorter_than_asked_is_told_by_its_count(serve, engine):
    """It is whole, and what to make of it is for others to say."""
    client = engine(serve(short=3).url)
    client.start()
    assert asked(client)[0].output_tokens == 4


def test_a_request_beyond_the_context(serve, engine):
    """Fails alone, in the server's words."""
    client = engine(serve(context_tokens=32).url)
    client.start()
    with pytest.raises(RequestFailed, match="HTTP 400: This model's maximum context length is 32 tokens"):
        asked(client, Request(tuple(range(20, 60)), 8))
    assert asked(client)[0].output_tokens == 8


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("no_usage", "doesn't say how many tokens it has"),
        ("html", "where a stream of events belongs"),
        ("other_model", "was asked for tiny, and another-model answered"),
        ("broken_json", "none of the API"),
        ("endless", "has no end"),
    ],
)
def test_a_server_that_can_never_be_measured_is_refused_at_the_start(serve, engine, fault, why):
    """Before anything is timed."""
    with pytest.raises(EngineFailed, match=why):
        engine(serve(**{fault: 1}).url).start()


def test_an_address_without_its_path_is_told_at_once(engine, tiny):
    """A server that is there and lists no models isn't waited for."""
    began_s = time.monotonic()
    with pytest.raises(EngineUnavailable, match="is this the address of an OpenAI API, with its /v1"):
        engine(f"{tiny.url.removesuffix('/v1')}/nowhere/v1").start()
    assert time.monotonic() - began_s < 30


@pytest.mark.parametrize("fault", ["too_many_requests", "unavailable"])
def test_a_server_that_is_busy_at_the_start_is_asked_the_same_again(serve, engine, fault):
    """What it takes is known in spite of it, and no other way of asking gets into a baseline's key."""
    settings = engine(serve(**{fault: 2}).url).start().settings
    assert settings == engine(serve().url).start().settings


def test_a_server_that_has_gone_fails_each_request(serve, engine):
    """As a broken connection, where it wasn't started here."""
    server = serve()
    client = engine(server.url)
    client.start()
    server.kill()
    for _ in range(2):
        with pytest.raises(RequestFailed, match="connection"):
            asked(client)


def test_a_batch_with_a_failed_request_fails(serve, engine):
    """A static batch is all or nothing."""
    client = engine(serve(server_error=3).url)
    client.start()
    with pytest.raises(EngineFailed, match="a request of a batch failed: HTTP 500"):
        client.serve([ASKED] * 4, observe=False)


def test_a_request_is_given_up_before_its_launch_is():
    """A peak of memory takes half of a batch and then all of it, and what fails of that voids no other case."""
    limit_s = RoundPolicy().answer_limit_s / 2
    assert max(openai_options.Options().request_limit_s, vllm.Options().request_limit_s) <= limit_s


def test_a_process_may_have_many_connections(tiny, engine):
    """More than the 1,024 files that a shell allows."""
    client = engine(tiny.url)
    client.start()
    served = client.serve([Request(ASKED.prompt, 2)] * 300, observe=False)
    assert served.output_tokens == (2,) * 300


def test_nothing_is_left_open(tiny, engine):
    """Neither sockets nor files."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    client = engine(tiny.url)
    client.start()
    client.serve([ASKED] * 8, observe=False)
    client.stop()
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1


# The tokens of its answers


def test_tokens_are_told_by_their_ids(tiny, engine):
    """As vLLM's server tells them; requests of unlike lengths are sent at once."""
    one = engine(tiny.url)
    one.start()
    assert one.answer([ASKED, Request(ASKED.prompt, 3)]) == (tuple(range(100, 108)), (100, 101, 102))


@pytest.mark.parametrize(("scores", "told"), [(True, ((crc32(b" x"),) * 8,)), (False, None)])
def test_tokens_without_ids_are_told_by_their_texts_beside_their_scores(engine, scores, told):
    """Or not at all, by a server that has no scores."""
    with peculiar(tokens_per_word=1, tokens_besides=0, natural_tokens=99, scores=scores) as url:
        one = engine(url, model="peculiar")
        one.start()
        assert one.answer([ASKED]) == told
        one.stop()


def test_a_request_that_fails_tells_no_tokens(serve, engine):
    """That is a failure, and no server that can't tell."""
    one = engine(serve(server_error=5).url)  # its start takes four requests
    one.start()
    with pytest.raises(EngineFailed, match="a request failed whose tokens were to be told: HTTP 500"):
        one.answer([ASKED] * 8)
