"""A self-test of who sends the requests: what it can send, against a server that takes no time."""

from contextlib import closing

from pytest_slmperf.core.devices.board import Effect
from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.errors import DeviceBusy, LaunchError, UsageError
from pytest_slmperf.core.fitness.client import Highest, client_line, highest_on_time
from pytest_slmperf.core.fitness.diagnosis import Grade, Line
from pytest_slmperf.core.guards.traffic import judge_traffic
from pytest_slmperf.core.launch import Load
from pytest_slmperf.core.load.arrivals import schedule
from pytest_slmperf.core.load.latency import answered_of, percentile
from pytest_slmperf.core.load.traffic import Arrivals, Traffic
from pytest_slmperf.core.load.window import Window
from pytest_slmperf.core.protocol import Play, Played, Ready, Start
from pytest_slmperf.core.sweeps.workload import OpenLoop
from pytest_slmperf.run.devices import HeldDevices, device_of
from pytest_slmperf.run.process import EngineProcess

MODEL = "tiny-2x128"
"""What the server is to call its model."""
PROMPT_TOKENS, STREAM_TOKENS = 16, 128
TRIED_S = 1.0
"""For how long each rate is sent."""
BEHIND_MS = 500.0
"""Whoever answers so late (p99) though it takes no time is at its own limit."""
ANSWER_S = 30.0


def client_limit(url: str, held: HeldDevices, seconds: float = TRIED_S) -> Line:
    """What a launch's process sends on time to the null server at `url`, each rate for so many seconds, by the guards
    that a run has.

    `held` holds this machine's cores, and is closed at the end.
    """
    spec = EngineSpec("openai", MODEL, options={"url": url, "device": "cpu"})
    try:
        with closing(held):
            held.hold([device_of(spec.engine, spec.options)])
            with EngineProcess(spec, launch="candidate/0", cores=held.cores(spec)) as process:
                process.hello(ANSWER_S)
                process.ask(Start(spec), Ready, ANSWER_S)
                requests, streams = _highest(process, 1, seconds), _highest(process, STREAM_TOKENS, seconds)
    except DeviceBusy as error:
        return Line("client", Grade.NOT_SEEN, f"not measured: {error}", "look again when it has ended")
    except (LaunchError, UsageError) as error:
        return Line("client", Grade.NOT_SEEN, f"not measured: {error}")
    return client_line(requests, streams, STREAM_TOKENS)


def _highest(process: EngineProcess, output_tokens: int, seconds: float) -> Highest:
    def send(rate: float) -> str:
        due_s = schedule(OpenLoop(PROMPT_TOKENS, output_tokens), rate, seconds=seconds, seed=1) or (0.0,)
        load = Load("client", ((PROMPT_TOKENS, output_tokens),) * len(due_s), 1, Arrivals(due_s))
        process.doing = f"sending {rate:g} requests a second"
        return late(process.ask(Play(load, seconds, 1, ANSWER_S), Played, seconds + 2 * ANSWER_S).traffic, load)

    return highest_on_time(send)


def late(traffic: Traffic, load: Load) -> str:
    """Why a load was not sent when it was due, or not answered at once; empty where both were."""
    window = Window(traffic.began_ns, traffic.last_sent_ns + 1)
    for found in judge_traffic(traffic, window, load):
        if found.effect is Effect.VOID:
            return found.reason
    took_ms = percentile([one.e2el_ms for one in answered_of(traffic.exchanges)], 0.99)
    if took_ms > BEHIND_MS:
        return f"the null server answered {took_ms:,.0f} ms later (p99), so this is its limit and not the client's"
    return ""
