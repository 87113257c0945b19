"""Before a pool is timed: do its replicas answer as a single instance of the engine does?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from pytest_slmperf.core.answers import (
    Batch,
    Expected,
    Tokens,
    alone_of,
    fixed_prompts,
    shares,
    trial,
    wrong_alone,
    wrong_under_load,
)
from pytest_slmperf.core.engine import EngineFacts, EngineSpec, Request
from pytest_slmperf.core.errors import EngineFailed
from pytest_slmperf.core.launch import Load
from pytest_slmperf.core.pool import ELSEWHERE
from pytest_slmperf.core.protocol import Answers, Question, Ready, Start
from pytest_slmperf.engines.planted import sound
from pytest_slmperf.run.process import EngineProcess

Ask = Callable[[Question], Answers]


def single(spec: EngineSpec) -> EngineSpec:
    """What the replicas of a pool are held to: one instance of their engine, outside of all that the pool sets up.

    Replicas that are elsewhere can't be had here one by one: then it is the first of them, alone.
    """
    spec = sound(spec)
    pool = spec.pool
    if pool is not None and pool.kind in ELSEWHERE:
        pool = replace(pool, replicas=1, addresses=pool.addresses[:1])
    else:
        pool = None
    return replace(spec, pool=pool, beside=())


@dataclass
class Standard:
    """What a single instance answers, and how a pool is held to it. Grows with the loads that are asked for."""

    spec: EngineSpec
    prompts: tuple[Request, ...] = ()
    alone: tuple[Tokens, ...] = ()
    loads: dict[str, tuple[tuple[Batch, Expected], ...]] = field(default_factory=dict)
    missing: str = ""
    """Why nothing can be compared."""

    def learn(self, loads: Sequence[Load], facts: EngineFacts, ask: Ask) -> None:
        """Ask a single instance."""
        pool, compiled = self.spec.pool, bool(facts.settings.get("compile"))
        assert pool is not None  # noqa: S101 - of a pool only is there a standard
        self.prompts = fixed_prompts(facts.vocabulary, facts.context_tokens)
        self.alone = self._tokens(ask, self.prompts, range(len(self.prompts)), together=False)
        for load in loads:
            expected = []
            for batch in trial(load, pool.replicas, facts.vocabulary, whole=compiled):
                alone = alone_of(batch)
                by_itself = self._tokens(ask, alone, range(len(alone)), together=False)
                beside: list[Tokens] = []
                for share in shares(len(batch.requests), pool.replicas):
                    kept = [place - share.start for place in batch.kept if place in share]
                    if kept:
                        beside += self._tokens(ask, batch.requests[share.start : share.stop], kept, together=True)
                exact = len(batch.requests) <= pool.replicas
                expected.append((batch, Expected(batch.kept, by_itself, tuple(beside), exact)))
            self.loads[load.case] = tuple(expected)

    def _tokens(
        self, ask: Ask, requests: Sequence[Request], kept: Sequence[int], *, together: bool
    ) -> tuple[Tokens, ...]:
        if self.missing:
            return ()
        told = ask(Question(tuple(requests), tuple(kept), together))
        self.missing = told.missing
        return told.said[0].answers if told.said else ()

    def check_alone(self, ask: Ask) -> None:
        """Ask each replica the fixed prompts, one at a time. Raises EngineFailed for an answer of its own."""
        if self.missing:
            return
        told = ask(Question(self.prompts, tuple(range(len(self.prompts))), together=False))
        self.missing = told.missing
        self._refuse("" if told.missing else wrong_alone(self.alone, told.said))

    def check(self, load: Load, ask: Ask) -> None:
        """Send a load of these lengths, and look at some of the answers. Raises EngineFailed where they are wrong."""
        if self.missing:
            return
        expected, told = [], []
        for batch, of_single in self.loads[load.case]:
            expected.append(of_single)
            told.append(ask(Question(batch.requests, batch.kept, together=True)))
        self.missing = next((one.missing for one in told if one.missing), "")
        self._refuse("" if self.missing else wrong_under_load(expected, [one.said for one in told]), load.case)

    def _refuse(self, flaw: str, case: str = "") -> None:
        if flaw:
            under = f"under {case}: " if case else ""
            raise EngineFailed(
                f"the replicas of {self.spec.engine} ({self.spec.model_name}, {self.spec.dtype}) answer wrongly: "
                f"{under}{flaw}; speed means nothing then, so nothing is measured"
            )

    @property
    def note(self) -> str:
        """What a report says where nothing can be compared."""
        return f"answers of the replicas were not compared with a single instance's: {self.missing}"


class Standards:
    """The standards of a run's pools, each asked of an instance that is started for it once, before the pool is."""

    def __init__(self) -> None:
        self._known: dict[str, Standard] = {}

    def of(
        self, spec: EngineSpec, loads: Sequence[Load], *, cores: tuple[int, ...] | None, limit_s: float
    ) -> Standard | None:
        """The standard of a pool for these loads; None for what is none, or has nothing to be timed.

        Raises what starting an engine and asking it does.
        """
        if spec.pool is None or not loads:
            return None
        standard = self._known.setdefault(repr(spec), Standard(spec))
        new = [load for load in loads if load.case not in standard.loads]
        if new and not standard.missing:
            alone, own = single(spec), cores[: spec.threads] if cores else None
            with EngineProcess(alone, launch="single/0", cores=own) as process:
                process.hello(limit_s)
                process.doing = "loading the model, as the single instance that replicas are held to"
                facts = process.ask(Start(alone), Ready, limit_s).facts
                process.doing = "answering, as the single instance that replicas are held to"
                standard.learn(new, facts, lambda ask: process.ask(ask, Answers, limit_s))
                process.doing = "stopping"
        return standard
