"""The worker's side of the protocol: do what the launch asks, one message at a time."""

import contextlib
import faulthandler
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from io import BufferedReader, RawIOBase
from typing import TypeVar

from pytest_slmperf import __version__
from pytest_slmperf.core.engine import Engine, EngineFacts, EngineSpec, Fronted, StreamingEngine
from pytest_slmperf.core.errors import EngineDied, EngineFailed, EngineUnavailable
from pytest_slmperf.core.launch import at_once
from pytest_slmperf.core.load.prompts import Prompts
from pytest_slmperf.core.load.traffic import Traffic
from pytest_slmperf.core.machine import SIMULATED
from pytest_slmperf.core.protocol import (
    Answers,
    Failed,
    Hello,
    Measured,
    MeasurePeak,
    Message,
    PeakMeasured,
    Play,
    Played,
    Prepare,
    Prepared,
    Question,
    Ready,
    Round,
    Start,
    Stop,
    decode,
    encode,
)
from pytest_slmperf.engines.company import Company
from pytest_slmperf.worker.answering import answers
from pytest_slmperf.worker.serving import Case, WrongAnswer

T = TypeVar("T")

TRACE_DEPTH = 5
_WEIGHTY = ("numpy", "torch", "transformers")
"""Libraries whose version an engine's speed hangs on, recorded where the engine has loaded them."""


def converse(read_fd: int, write_fd: int) -> None:
    """Answer messages until Stop, the end of the pipe or a failure."""
    faulthandler.enable()  # a crash in native code then says where, in the lines that the launch shows
    with open(read_fd, "rb") as asked, open(write_fd, "wb", buffering=0) as told:
        _send(told, Hello(python=sys.version.split()[0], pid=os.getpid()))
        start = _receive(asked)
        if not isinstance(start, Start):
            return
        company = _attempt(told, partial(_company, start.spec))
        if company is None:
            return
        try:
            if _attempt(told, partial(_started, company)):
                _live(asked, told, start.spec, company)
        finally:
            _stop(company)


def _live(asked: BufferedReader, told: RawIOBase, spec: EngineSpec, company: Company) -> None:
    """The life of the engine, beside whom it has."""
    engine = _attempt(told, partial(_create, spec))
    if engine is None:
        return
    try:
        facts = _attempt(told, partial(_started_beside, engine, company))
        if facts is not None:
            facts = replace(facts, settings={**facts.settings, **company.settings})
            _send(told, Ready(facts, {**company.versions, **_versions(spec, facts), **getattr(engine, "versions", {})}))
            _serve(asked, told, _Launched(engine, facts, spec, company))
    finally:
        _stop(engine)


def _company(spec: EngineSpec) -> Company:
    from pytest_slmperf.engines import registry  # noqa: PLC0415 - after Hello, so that a failure can be reported

    return registry.company(spec)


def _started(company: Company) -> bool:
    company.start()
    return True


def _started_beside(engine: Engine, company: Company) -> EngineFacts:
    facts = engine.start()
    company.check(facts)
    return facts


def _create(spec: EngineSpec) -> Engine:
    from pytest_slmperf.engines import registry  # noqa: PLC0415 - as of its company

    return registry.create(replace(spec, beside=()))


def _serve(asked: BufferedReader, told: RawIOBase, launched: "_Launched") -> None:
    while (message := _receive(asked)) is not None and not isinstance(message, Stop):
        answer = _attempt(told, partial(launched.answer, message))
        if answer is None:
            return
        _send(told, answer)


class _Launched:
    """A started engine, and what it is asked to serve. Lives as long as the conversation."""

    def __init__(self, engine: Engine, facts: EngineFacts, spec: EngineSpec, company: Company) -> None:
        self._engine, self._facts, self._spec, self._company = engine, facts, spec, company
        self._case: Case | None = None
        self._prompts: dict[str, Prompts] = {}
        """By case: what a repeated load sends is not what it sent before, or a prefix cache would know it."""

    def answer(self, message: Message) -> PeakMeasured | Prepared | Measured | Played | Answers:
        """Do what the launch asks. Raises ValueError for what is out of turn, and whatever the engine raises."""
        match message:
            case MeasurePeak(load=load):
                self._case = Case(self._engine, at_once(load), self._facts)
                try:
                    return self._case.measure_peak()
                except (EngineFailed, WrongAnswer, MemoryError) as error:
                    # Requests that come one by one may find room where all at once don't; what fails of them is seen.
                    if load.arrivals is None:
                        raise
                    return PeakMeasured(None, f"not all was served that was sent at once: {str(error) or 'no memory'}")
            case Prepare(load=load, round_s=round_s, warmup_limit=limit):
                self._case = Case(self._engine, load, self._facts, self._company)
                return self._case.prepare(round_s, limit)
            case Round(batches=batches, observe=observe, marks=marks) if self._case:
                return self._round(self._case, batches, observe=observe, marks=marks)
            case Play():
                return self._played(message)
            case Question():
                return answers(self._engine, message)
        raise ValueError(f"no message of a launch, or before any load: {message}")

    def _round(self, case: Case, batches: int, *, observe: bool, marks: bool) -> Measured:
        if not isinstance(self._engine, Fronted):
            return case.round(batches, observe=observe, marks=marks)
        self._engine.front_end()
        measured = case.round(batches, observe=observe, marks=marks)
        return replace(measured, front_end=self._engine.front_end())

    def _played(self, ask: Play) -> Played:
        self._company.begin()
        began_ns = time.monotonic_ns()
        traffic = self._play(ask)
        if self._facts.device == SIMULATED:
            ended = max((one.ended_ns for one in traffic.exchanges), default=0)
            span = traffic.began_ns, max(ended, traffic.began_ns + 1)
        else:
            span = began_ns, time.monotonic_ns()
        return Played(traffic, self._company.end(*span))

    def _play(self, ask: Play) -> Traffic:
        from pytest_slmperf.worker.sending import play  # noqa: PLC0415 - engines of batches need no event loop

        engine, load = self._engine, ask.load
        if not isinstance(engine, StreamingEngine):
            raise EngineUnavailable(
                f"{self._spec.engine} serves static batches only, and requests of {load.case} come and go one by one; "
                "engines that stream are a StreamingEngine of pytest_slmperf.core.engine"
            )
        if load.case not in self._prompts:
            self._prompts[load.case] = Prompts(
                vocabulary=self._facts.vocabulary, seed=load.seed, shared_prefix_tokens=load.shared_prefix_tokens
            )
        return play(engine, ask, self._prompts[load.case], loss=_loss_of_all(self._spec))


def _loss_of_all(spec: EngineSpec) -> float:
    """What is planted in the engine as a whole. A replica that is slowed alone slows its own answers down."""
    return spec.planted_loss if spec.pool is None or spec.pool.slowed_replica is None else 0.0


def _attempt(told: RawIOBase, do: Callable[[], T]) -> T | None:
    """The result, or None after a Failed was sent. An engine is a stranger's code: whatever it raises is reported."""
    try:
        return do()
    except EngineUnavailable as error:
        failed = Failed("unavailable", str(error))
    except WrongAnswer as error:
        failed = Failed("answer", str(error))
    except MemoryError as error:
        failed = Failed("memory", str(error) or "MemoryError")
    except (EngineFailed, EngineDied) as error:
        failed = Failed("failed", str(error))
    except Exception as error:  # noqa: BLE001 - the boundary to a stranger's code
        failed = Failed("failed", f"{type(error).__name__}: {error}", traceback.format_exc(limit=-TRACE_DEPTH))
    _send(told, failed)
    return None


def _stop(engine: Engine | Company) -> None:
    try:
        engine.stop()
    except Exception:  # noqa: BLE001 - teardown: what was measured is measured
        traceback.print_exc()


def _versions(spec: EngineSpec, facts: EngineFacts) -> dict[str, str]:
    own = {"python": sys.version.split()[0], "pytest-slmperf": __version__, spec.engine: facts.version}
    return own | loaded_versions()


def loaded_versions() -> dict[str, str]:
    """Versions of libraries that an engine's speed hangs on, as far as this process has loaded them."""
    loaded = {name: getattr(sys.modules.get(name), "__version__", None) for name in _WEIGHTY}
    return {name: str(version) for name, version in loaded.items() if version}


def _receive(asked: BufferedReader) -> Message | None:
    line = asked.readline()
    return decode(line) if line else None


def _send(told: RawIOBase, message: Message) -> None:
    rest = memoryview(encode(message))
    with contextlib.suppress(BrokenPipeError):  # the launch is gone, and the kernel ends this process with it
        while rest:
            rest = rest[os.write(told.fileno(), rest) :]
