"""An engine that answers in simulated time: for trying a suite, a gate or this package itself on any machine.

It generates no token and, but with `real_time`, takes no time; the times it gives are those of a simple model of a real
engine:

- a step (one token for every request that still runs) takes `1 / level` seconds at a batch of one, and the more the
  larger the batch: throughput grows with the batch up to about `level × knee` and then stays;
- a prompt's token takes `1 / prefill_level` seconds.

Requests that are streamed come and go between two steps (continuous batching): prompts are read in the step that a
request joins, and what finds no place in the batch queues. Traffic passes in simulated time, too.

Options, all with a default:

`level` (1000)
    Output tokens per second of one request alone, without its prompt.
`knee` (16)
    The batch at which the throughput is half of what it can become.
`prefill_level` (100000)
    Prompt tokens per second.
`observing_cost` (0)
    Share by which an observed batch takes longer.
`noise` (0)
    Standard deviation (log-normal) of the pace from one tenth of a simulated second to the next; at most 1.
`launch_noise` (0)
    Standard deviation (log-normal) of the pace from launch to launch; at most 1.
`drift` (0)
    Change of the pace with each launch of a run; −0.01 makes each one 1 % slower than the one before. It must leave
    every launch between a millionth of a token and ten million tokens per second.
`cold` (1)
    How many times as long the first batch takes; what is too much halves with every batch and every streamed request.
`seed` (none)
    Makes the noise of a run repeatable, launch by launch; without it every launch is new.
`beside_cost` (0)
    Share by which everything takes longer where other models run beside it.
`context_tokens` (4096), `vocabulary` (1024)
    Of the model.
`startup_s` (0.5)
    Simulated start.
`memory_bytes` (250000000), `memory_bytes_per_token` (40000)
    Simulated peak: so much, plus so much for every prompt and output token of the batch.
`tells_memory` (true)
    Whether it says its peak, as an engine on a GPU may not.
`memory_limit_bytes` (none)
    A batch whose peak is higher runs out of memory.
`start_sleep_s` (0)
    Real seconds that the start takes.
`batch_sleep_s` (0)
    Real seconds that every batch takes, on top of the simulated ones.
`real_time` (false)
    Whether a batch really lasts as long as is said of it: a meter can then be read beside it.
`load_log` (none), `load` (0.8)
    File to which each batch appends how busy it makes the board, 0 to 1, and when: lines `PID NS LOAD`, which a
    stand-in for a GPU's driver follows. It needs `real_time`.
`fault` (none), `fault_batch` (0)
    What goes wrong, and in which batch of the launch, counted from one, with two a case for its peak of memory
    before anything else, and the warm-up; of a pool, its check of answers, too; 0 is the start.
    `unavailable`: it can't be had here. `raises`. `hangs`. `dies`: killed by SIGKILL. `exits`: with code 3.
    `memory`: out of memory. `short`: one token too few. `unobserved`: no token times though they were asked for.
    `chatters`: prints a lot on stdout and stderr, which must not matter. `babbles`: writes into every pipe it has.
`unequal_replica` (none)
    Of a pool, the replica, counted from 1, that tells of a smaller KV cache than the others.
`wrong_replica` (none), `wrong_answers` (`layer`), `wrong_from` (1)
    Of a pool, the replica, counted from 1, whose answers are wrong, or all with 0; how; and in batches of so many
    requests or more.
    `layer`: those of another model. `constant`: one token over and over. `not_finite`: scores that are no numbers.
    `short`: one token too few.
`rounding` (0)
    Share of the answers that in a batch of two or more part from those alone.
`max_running` (none)
    Streamed requests that run at once; the others queue.
`fault_every` (none)
    Every so-manyth streamed request has the fault, and the start hasn't; without it every tenth. Some faults are theirs
    alone.
    `refuses`: no answer. `stalls`: the next step takes a quarter of a second longer. `coalesces`: four tokens at a
    time. `caches`: half of the prompt is said to come from a cache. `preempts`: it is put off in its middle, and begins
    again from its prompt. `restarts`: the engine says that it has started anew.
"""

import math
import os
import random
import signal
import stat
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_slmperf.core.answers import NOT_FINITE
from pytest_slmperf.core.engine import Answer, EngineFacts, EngineSpec, Request, Served, Stamp
from pytest_slmperf.core.errors import EngineFailed, EngineUnavailable, RequestFailed
from pytest_slmperf.core.launch import BESIDE_VARIABLE, LAUNCH_VARIABLE, REPLICA_VARIABLE
from pytest_slmperf.core.units import NS_PER_S
from pytest_slmperf.engines.planted import is_replica
from pytest_slmperf.engines.streaming import Streaming

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from pytest_slmperf.engines.fake_batching import Batching

FAULTS = (
    "unavailable", "raises", "hangs", "dies", "exits", "memory", "short", "unobserved", "chatters", "babbles",
    "refuses", "stalls", "coalesces", "caches", "preempts", "restarts",
)  # fmt: skip
WRONGS = ("layer", "constant", "not_finite", "short")
WHOLE = (
    "seed", "context_tokens", "vocabulary", "memory_bytes", "memory_bytes_per_token", "memory_limit_bytes",
    "fault_batch", "max_running", "fault_every", "wrong_replica", "unequal_replica", "wrong_from",
)  # fmt: skip
TEXTS = ("load_log",)
TRUTHS = ("real_time", "tells_memory")
ABOVE = {"level": 0, "knee": 0, "prefill_level": 0, "cold": 0, "drift": -1}
LEAST = {
    **dict.fromkeys(
        ("observing_cost", "beside_cost", "noise", "launch_noise", "startup_s", "start_sleep_s", "batch_sleep_s"), 0
    ),
    **dict.fromkeys(("memory_bytes_per_token", "fault_batch", "load"), 0),
    **dict.fromkeys(("context_tokens", "vocabulary", "memory_bytes", "memory_limit_bytes"), 1),
    **dict.fromkeys(("max_running", "fault_every", "wrong_from"), 1),
    **dict.fromkeys(("unequal_replica", "wrong_replica", "rounding"), 0),
}
MOST = {"noise": 1, "launch_noise": 1, "rounding": 1}
"""What the values of options may be, besides finite numbers; a seed may be any whole number."""
SLOWEST, FASTEST = 1e-6, 1e7
"""Output tokens per second of one request: a clock of nanoseconds gives no faster pace, and a round would never end."""
FAULT_EVERY = 10
PACE_LASTS_NS = 100_000_000
LATE_NS = 80_000_000
"""By which a sleep may end too late and the next batch still begin where the last one ended: no pause was meant."""


@dataclass(frozen=True)
class Behaviour:
    """The options, as the module's docstring describes them."""

    level: float = 1000.0
    knee: float = 16.0
    prefill_level: float = 100_000.0
    observing_cost: float = 0.0
    noise: float = 0.0
    launch_noise: float = 0.0
    drift: float = 0.0
    cold: float = 1.0
    seed: int | None = None
    beside_cost: float = 0.0
    context_tokens: int = 4096
    vocabulary: int = 1024
    startup_s: float = 0.5
    memory_bytes: int = 250_000_000
    memory_bytes_per_token: int = 40_000
    tells_memory: bool = True
    memory_limit_bytes: int | None = None
    start_sleep_s: float = 0.0
    batch_sleep_s: float = 0.0
    real_time: bool = False
    load_log: str | None = None
    load: float = 0.8
    unequal_replica: int | None = None
    wrong_replica: int | None = None
    wrong_answers: str = "layer"
    wrong_from: int = 1
    rounding: float = 0.0
    fault: str | None = None
    fault_batch: int = 0
    max_running: int | None = None
    fault_every: int | None = None


def create(spec: EngineSpec) -> "FakeEngine":
    """The fake engine with the spec's options. Raises EngineUnavailable for an option that can't be."""
    return FakeEngine(spec, behaviour(spec.options), launch=os.environ.get(LAUNCH_VARIABLE, ""))


def behaviour(options: Mapping[str, str | int | float | bool]) -> Behaviour:
    """The options as a value. Raises EngineUnavailable for one that it doesn't know, and for a value that can't be."""
    known = [field.name for field in fields(Behaviour)]
    unknown = sorted(options.keys() - set(known))
    if unknown:
        raise EngineUnavailable(f"the fake engine has no option {', '.join(unknown)}; it has {', '.join(known)}")
    if "fault" in options and options["fault"] not in FAULTS:
        raise EngineUnavailable(f"the fake engine has no fault {options['fault']!r}; it has {', '.join(FAULTS)}")
    if options.get("wrong_answers", WRONGS[0]) not in WRONGS:
        raise EngineUnavailable(
            f"the fake engine has no wrong_answers {options['wrong_answers']!r}; it has {', '.join(WRONGS)}"
        )
    for name, value in options.items():
        if name not in ("fault", "wrong_answers") and not _fits(name, value):
            raise EngineUnavailable(f"the fake engine: {name}={value!r}; it takes {_kind(name)}{_bounds(name)}")
    behaves = Behaviour(**dict(options))  # type: ignore[arg-type]  # checked above
    if behaves.load_log and not behaves.real_time:
        raise EngineUnavailable("the fake engine: a load_log of simulated time helps nobody; add real_time=true")
    return behaves


def _kind(name: str) -> str:
    if name in TRUTHS:
        return "true or false"
    return "a text" if name in TEXTS else "a whole number" if name in WHOLE else "a number"


def _fits(name: str, value: object) -> bool:
    if name in TRUTHS or name in TEXTS:
        return isinstance(value, str if name in TEXTS else bool)
    kinds = (int,) if name in WHOLE else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not math.isfinite(value):
        return False
    return ABOVE.get(name, -math.inf) < value and LEAST.get(name, -math.inf) <= value <= MOST.get(name, math.inf)


def _bounds(name: str) -> str:
    if name in ABOVE:
        return f" above {ABOVE[name]}"
    most = f", at most {MOST[name]}" if name in MOST else ""
    return f", at least {LEAST[name]}{most}" if name in LEAST else ""


def _launch_pace(behaves: Behaviour, draw: random.Random, index: int) -> float:
    """How fast this launch is, as a multiple of the level. Raises EngineUnavailable beyond what a clock can show."""
    log_pace = draw.gauss(0, behaves.launch_noise) + index * math.log1p(behaves.drift)
    if not math.log(SLOWEST) <= math.log(behaves.level) + log_pace <= math.log(FASTEST):
        raise EngineUnavailable(
            f"the fake engine: level={behaves.level:g}, launch_noise={behaves.launch_noise:g} and "
            f"drift={behaves.drift:g} put launch {index} outside {SLOWEST:g} to {FASTEST:g} tokens per second"
        )
    return math.exp(log_pace)


class FakeEngine(Streaming):
    """A simulated launch. Its clock begins at the real time of its start, and runs only while it serves."""

    def __init__(self, spec: EngineSpec, behaves: Behaviour, *, launch: str) -> None:
        super().__init__()
        self._spec = spec
        self._behaves = behaves
        replica = os.environ.get(REPLICA_VARIABLE, "")
        seed = None if behaves.seed is None else f"{behaves.seed}/{launch}{replica and f' {replica}'}"
        self._draw = random.Random(seed)
        self._launch_pace = _launch_pace(behaves, self._draw, int(launch.rpartition("/")[2] or 0))
        self._in_company = bool(os.environ.get(BESIDE_VARIABLE))
        self._pace = 1.0
        self._pace_until_ns = 0
        self._now_ns = time.monotonic_ns()
        self._batches = self._streamed = 0
        self._unequal = is_replica(behaves.unequal_replica)
        self._planted = is_replica(behaves.wrong_replica)  # now: a replica's environment is its own while it is made

    def start(self) -> EngineFacts:
        """Say what is simulated. Raises EngineUnavailable or whatever fault is asked for."""
        time.sleep(self._behaves.start_sleep_s)
        self._tell(0, time.monotonic_ns())
        if self._behaves.fault and self._behaves.fault_batch == 0 and self._behaves.fault_every is None:
            self._go_wrong(self._behaves.fault)
        return EngineFacts(
            version="1",
            device="simulated",
            dtype=self._spec.dtype,
            weights="random",
            context_tokens=self._behaves.context_tokens,
            vocabulary=self._behaves.vocabulary,
            settings={"kv_blocks": 99 if self._unequal else 100} if self._behaves.unequal_replica else {},
            startup_s=self._behaves.startup_s,
        )

    def serve(self, batch: Sequence[Request], *, observe: bool) -> Served:
        """Move the simulated clock on by what the batch takes. Raises whatever fault is asked for."""
        self._batches += 1
        fault = self._behaves.fault if self._batches == self._behaves.fault_batch else None
        if fault:
            self._go_wrong(fault)
        if self._behaves.batch_sleep_s:
            time.sleep(self._behaves.batch_sleep_s)
        peak = self._peak(batch)
        asked = tuple(request.output_tokens for request in batch)
        started = self._begin()
        watched = 1 + self._behaves.observing_cost if observe else 1
        ends = self._token_ends(batch, started, stretch=watched * self._stretch(started))
        self._now_ns = ends[-1]
        self._last_until(ends[-1])
        token_ns = tuple(tuple(ends[:tokens]) for tokens in asked) if observe and fault != "unobserved" else None
        given = (asked[0] - 1, *asked[1:]) if fault == "short" else asked
        return Served(started, ends[-1], given, token_ns, peak if self._behaves.tells_memory else None)

    def answer(self, batch: Sequence[Request]) -> tuple[tuple[int, ...], ...]:
        """Tokens that are drawn by the model's name and the prompt, or what is wrong with them. Takes no time."""
        behaves, beside = self._behaves, len(batch)
        planted = self._planted and beside >= behaves.wrong_from
        wrong = behaves.wrong_answers if planted else ""
        return tuple(self._tokens(request, beside, wrong) for request in batch)

    def _tokens(self, request: Request, beside: int, wrong: str) -> tuple[int, ...]:
        asked, model = request.output_tokens, f"{self._spec.model_name} {wrong}"
        tokens = self._drawn(f"{model} {request.prompt}", asked)
        rounded = random.Random(f"{beside} {model} {request.prompt}")
        if beside > 1 and rounded.random() < self._behaves.rounding:
            same = rounded.randrange(asked)
            tokens = (*tokens[:same], *self._drawn(f"{beside} {model} {request.prompt}", asked - same))
        match wrong:
            case "constant":
                return tokens[:1] * asked
            case "not_finite":
                return (NOT_FINITE,) * asked
            case "short":
                return tokens[:-1]
        return tokens

    def _drawn(self, seed: str, count: int) -> tuple[int, ...]:
        return tuple(random.Random(seed).choices(range(self._behaves.vocabulary), k=count))

    def event_loop(self) -> "AbstractEventLoop":
        """One in simulated time, but with `real_time`."""
        from pytest_slmperf.engines.simulated_time import SimulatedLoop  # noqa: PLC0415 - it imports asyncio

        return super().event_loop() if self._behaves.real_time else SimulatedLoop()

    async def batch(self, batch: Sequence[Request], *, observe: bool) -> Served:
        """As `serve`, beside what else the event loop has to do."""
        if self._behaves.real_time or self._behaves.batch_sleep_s:
            import asyncio  # noqa: PLC0415 - batches alone need it not

            return await asyncio.to_thread(self.serve, batch, observe=observe)
        return self.serve(batch, observe=observe)

    async def stream(self, request: Request, stamp: Stamp) -> Answer:
        """Answer in the time that the model says. Raises RequestFailed or whatever else is asked for."""
        self._streamed += 1
        fault = self._behaves.fault if self._streamed % (self._behaves.fault_every or FAULT_EVERY) == 0 else None
        if fault == "refuses":
            raise RequestFailed("the fake engine was told to refuse this request")
        if fault:
            self._go_wrong(fault)
        asked = request if fault != "short" else replace(request, output_tokens=max(1, request.output_tokens - 1))
        return await self._batching.answer(asked, stamp, fault=fault)

    async def counters(self) -> Mapping[str, float]:
        """What it says of itself now: all there is."""
        return self._batching.counters

    def stop(self) -> None:
        """End its event loop, if there is one."""
        self.disconnect()

    @cached_property
    def _batching(self) -> "Batching":
        from pytest_slmperf.engines.fake_batching import Batching  # noqa: PLC0415 - it imports asyncio

        return Batching(self._step_s, max_running=self._behaves.max_running, busy=self._busy)

    def _step_s(self, running: int, prompt_tokens: int, at_ns: int) -> float:
        behaves = self._behaves
        step_s = (1 + (running - 1) / behaves.knee) / behaves.level
        return (step_s + prompt_tokens / behaves.prefill_level) * self._stretch(at_ns)

    def _busy(self, works: bool, at_ns: int) -> None:  # noqa: FBT001 - what it is told
        self._tell(self._behaves.load if works else 0, at_ns)

    def _begin(self) -> int:
        """When a batch begins: where the last one ended, but after a real pause in real time."""
        if not self._behaves.real_time:
            return self._now_ns
        now_ns = time.monotonic_ns()
        started = self._now_ns if self._batches > 1 and now_ns - self._now_ns < LATE_NS else now_ns
        self._tell(self._behaves.load, started)
        return started

    def _last_until(self, end_ns: int) -> None:
        if self._behaves.real_time:
            time.sleep(max(0.0, (end_ns - time.monotonic_ns()) / NS_PER_S))
            self._tell(0, end_ns)

    def _tell(self, load: float, at_ns: int) -> None:
        """Say how busy the board is from then on: one line, appended at once."""
        if self._behaves.load_log:
            with Path(self._behaves.load_log).open("ab", buffering=0) as log:
                log.write(f"{os.getpid()} {at_ns} {load}\n".encode())

    def _stretch(self, at_ns: int) -> float:
        """How many times as long as by the model something takes that begins now."""
        behaves = self._behaves
        if behaves.noise and not 0 < self._pace_until_ns - at_ns <= PACE_LASTS_NS:
            self._pace = math.exp(self._draw.gauss(0, behaves.noise))
            self._pace_until_ns = at_ns + PACE_LASTS_NS
        cold = 1 + (behaves.cold - 1) * 0.5 ** max(0, self._batches + self._streamed - 1)
        beside = 1 + behaves.beside_cost if self._in_company else 1
        return beside * cold / (self._pace * self._launch_pace)

    def _token_ends(self, batch: Sequence[Request], started_ns: int, *, stretch: float) -> list[int]:
        """When the first, second, … token of every request that is that long is there."""
        behaves = self._behaves
        prefill_s = sum(len(request.prompt) for request in batch) / behaves.prefill_level
        remaining = sorted(request.output_tokens for request in batch)
        steps_s: list[float] = []
        for finished, tokens in enumerate(remaining):
            running = len(remaining) - finished
            step_s = (1 + (running - 1) / behaves.knee) / behaves.level
            steps_s.extend([step_s] * (tokens - len(steps_s)))
        steps_s[0] += prefill_s
        return [started_ns + max(1, int(end_s * stretch * NS_PER_S)) for end_s in accumulate(steps_s)]

    def _peak(self, batch: Sequence[Request]) -> int:
        tokens = sum(len(request.prompt) + request.output_tokens for request in batch)
        peak = self._behaves.memory_bytes + tokens * self._behaves.memory_bytes_per_token
        limit = self._behaves.memory_limit_bytes
        if limit is not None and peak > limit:
            raise MemoryError(f"{peak:,} bytes are needed and {limit:,} are there")
        return peak

    def _go_wrong(self, fault: str) -> None:
        match fault:
            case "unavailable":
                raise EngineUnavailable("the fake engine was told not to be here; leave out the option fault")
            case "raises":
                raise EngineFailed("the fake engine was told to fail")
            case "memory":
                raise MemoryError("the fake engine was told to run out of memory")
            case "hangs":
                while True:
                    time.sleep(60)
            case "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            case "exits":
                sys.stderr.write("the fake engine was told to exit\n")
                sys.stderr.flush()
                os._exit(3)
            case "chatters":
                _chatter()
            case "babbles":
                _babble()


def _chatter() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.write('{"slmperf": 2, "kind": "stop"}\n' * 100_000)
        stream.flush()


def _babble() -> None:
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - numbers, not paths
        with suppress(OSError):
            if int(name) > 2 and stat.S_ISFIFO(os.fstat(int(name)).st_mode):
                os.write(int(name), b"what an engine's library likes to print\n")
