"""Different models side by side on one device: who runs beside the one that is measured, and what it did meanwhile."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields

from pytest_slmperf.core.errors import UsageError
from pytest_slmperf.core.flaw import flaw
from pytest_slmperf.core.pool import POOL_OPTIONS
from pytest_slmperf.core.slo import Slo

CORES = ("own", "shared")
LOADS = ("batch_size", "concurrency", "request_rate")
PAUSE_SHARE = 0.05
"""Of a round, that a model beside may have had nothing to do: between two batches, the time to begin the next."""
MOST_TOKENS = 1_000_000
MOST_PLACES = 100_000
LEAST_RATE = 0.001
"""A launch lasts until twenty of its requests have come, and a day has 86,400 seconds."""
MOST_WAITING = 10_000
"""Requests of one model under way at once: nobody holds so many connections to a server for a small model."""
FEW_WAITING = 10
BEYOND = 4
"""So many times what it serves a model may be asked for: its queue grows, and is waited for after each round."""
SETTLED_S = 1.0
SETTLED_TURNS = 4
"""What it serves is told when it has served for so long, and for so many times what its first answer took."""
OF_ITS_OWN = ("model", "dtype", "threads", "beside", "slowed", *POOL_OPTIONS)
"""What is no option of a model beside: it is said otherwise, it is a pool's, or a loss, which is planted in what is
measured.
"""
_ENGINE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""It stands in a case's name."""


@dataclass(frozen=True, slots=True)
class Beside:
    """Another model that is served beside the one that is measured, under a load of its own.

        Sweep("mix", StaticBatch(prompt_tokens=32, output_tokens=32), batch_size=[8], model=["opt-125m"],
              beside=[None, Beside("opt-1.3b", batch_size=4, prompt_tokens=32, output_tokens=32)])

    With `batch_size` it serves static batches, one after the other. With `concurrency` so many requests are always
    under way, and with `request_rate` so many arrive in a second, as in a Poisson process, whether or not others have
    ended: both take an engine that streams, and may say in `slo` which of its requests count as good. `dtype`,
    `threads` and `options` are by default those of the measured engine; options that are given take the place of
    those of the same name. With `engine` another one serves it, on the same device, and its options are its own alone.
    Raises UsageError for what makes no sense.
    """

    model: str
    batch_size: int | None = None
    concurrency: int | None = None
    prompt_tokens: int = 32
    output_tokens: int = 32
    dtype: str | None = None
    threads: int | None = None
    cores: str = "own"
    """On a CPU: `own`, or `shared` with the measured engine. On a GPU all are on the same device anyhow."""
    request_rate: float | None = None
    """Requests per second."""
    slo: Slo | None = None
    """Its own limits; a table of them will do."""
    options: Mapping[str, str | int | float | bool] = field(default_factory=dict, hash=False)
    engine: str | None = None
    """What serves it, by its name; the measured model's where None."""

    def __post_init__(self) -> None:
        if not isinstance(self.model, str) or not self.model or flaw(self.model):
            raise UsageError(f"Beside(model={self.model!r}); it takes a model's name or path")
        if sum(getattr(self, load) is not None for load in LOADS) != 1:
            raise UsageError(f"Beside({self.model!r}): it takes one of {', '.join(LOADS[:-1])} and {LOADS[-1]}")
        counted = {"batch_size": MOST_PLACES, "concurrency": MOST_PLACES, "threads": MOST_PLACES}
        counted |= {"prompt_tokens": MOST_TOKENS, "output_tokens": MOST_TOKENS}
        for name, most in counted.items():
            value = getattr(self, name)
            if value is None and not name.endswith("tokens"):
                continue
            if type(value) is not int or not 1 <= value <= most:
                raise UsageError(f"Beside({self.model!r}): {name}={value!r}; it takes a whole number, 1 to {most:,}")
        rate = self.request_rate
        number = isinstance(rate, (int, float)) and not isinstance(rate, bool)
        if rate is not None and not (number and LEAST_RATE <= rate <= MOST_PLACES):
            said = f"it takes requests per second, {LEAST_RATE:g} to {MOST_PLACES:,}"
            raise UsageError(f"Beside({self.model!r}): request_rate={rate!r}; {said}")
        if self.dtype is not None and not (isinstance(self.dtype, str) and self.dtype):
            raise UsageError(f"Beside({self.model!r}): dtype={self.dtype!r}; it takes a name, as 'int8'")
        if self.engine is not None and not (isinstance(self.engine, str) and _ENGINE.fullmatch(self.engine)):
            raise UsageError(f"Beside({self.model!r}): engine={self.engine!r}; it takes an engine's name, as 'openai'")
        if self.cores not in CORES:
            raise UsageError(f"Beside({self.model!r}): cores={self.cores!r}; it takes {' or '.join(map(repr, CORES))}")
        self._check_slo()
        self._check_options()

    def _check_slo(self) -> None:
        limits: object = self.slo
        if isinstance(limits, Mapping) and limits.keys() <= {one.name for one in fields(Slo)}:
            limits = Slo(**limits)
            object.__setattr__(self, "slo", limits)
        if limits is not None and not isinstance(limits, Slo):
            raise UsageError(f"Beside({self.model!r}): slo={limits!r}; it takes Slo(ttft_ms=…, tpot_ms=…, e2el_ms=…)")
        if limits is not None and self.batch_size is not None:
            raise UsageError(
                f"Beside({self.model!r}): the requests of a batch all begin at once: an slo is of those that come one "
                "by one, with concurrency or request_rate"
            )

    def _check_options(self) -> None:
        given: object = self.options
        if not isinstance(given, Mapping) or not all(map(_option, given.items())):
            raise UsageError(f"Beside({self.model!r}): options={given!r}; it takes texts, numbers and truths by name")
        if taken := [name for name in given if name in OF_ITS_OWN]:
            raise UsageError(f"Beside({self.model!r}): options has {taken[0]!r}, which is no option of an engine alone")
        object.__setattr__(self, "options", dict(sorted(given.items())))

    @property
    def name(self) -> str:
        """What cases are called by: `opt-1.3b@4`, at a rate `opt-1.3b@2.5rps`, of an engine that is named
        `openai:opt-1.3b@4`.
        """
        at = self.batch_size or self.concurrency or f"{self.request_rate:g}rps"
        return f"{self.engine}:" * bool(self.engine) + f"{self.model.rstrip('/').rpartition('/')[2]}@{at}"

    @property
    def load(self) -> str:
        """`batch of 4, 32+8 tokens`, for a key."""
        kind = "batch" if self.batch_size else "concurrency" if self.concurrency else "rate"
        at = self.batch_size or self.concurrency or self.request_rate or 0
        return f"{kind} of {at:g}, {self.prompt_tokens}+{self.output_tokens} tokens"

    @property
    def lighter(self) -> str:
        """A load that would take less memory: `a lower request_rate`."""
        named = next(load for load in LOADS if getattr(self, load) is not None)
        return f"a {'smaller' if self.batch_size else 'lower'} {named}"


@dataclass(frozen=True, slots=True)
class NeighbourWork:
    """What one that ran beside did: (began, ended, prompt tokens, output tokens, requests, first part) of each batch or
    request, by the clock of the engine that was measured.

    A request that arrives at a rate begins when it was due. The first part of an answer is told of requests that come
    one by one, and is 0 of a batch.
    """

    name: str
    """`opt-1.3b@4 (core 1)`."""
    done: tuple[tuple[int, int, int, int, int, int], ...]
    load: Beside | None = None
    """What it was to do; None where nobody says."""

    def within(self, from_ns: float, to_ns: float) -> tuple[float, float, float]:
        """Prompt tokens, output tokens and requests between these instants; of what they cut in two, a share."""
        total = [0.0, 0.0, 0.0]
        for began, ended, *amounts, _ in self.done:
            inside = min(ended, to_ns) - max(began, from_ns)
            if inside > 0:
                share = inside / (ended - began)
                total = [so_far + share * amount for so_far, amount in zip(total, amounts, strict=True)]
        return total[0], total[1], total[2]

    def busy_ns(self, from_ns: int, to_ns: int) -> int:
        """For so long it had anything to do between these instants."""
        busy, reached = 0, from_ns
        for began, ended, *_ in sorted(self.done):
            busy += max(0, min(ended, to_ns) - max(began, reached))
            reached = max(reached, ended)
        return busy


def neighbours(value: "Beside | Iterable[Beside] | None") -> tuple[Beside, ...]:
    """As an engine has them, of what a sweep varies: nobody, one, or several."""
    if value is None:
        return ()
    return (value,) if isinstance(value, Beside) else tuple(value)


def told(table: Mapping[str, object]) -> bool:
    """Whether a table of settings says who runs beside, in words that are known."""
    return "model" in table and table.keys() <= {one.name for one in fields(Beside)}


def spelled_beside(value: "Beside | Iterable[Beside] | None") -> str:
    """As a case's name has it: `none`, `opt-1.3b@4`, `opt-1.3b@4+opt-6.7b@1`."""
    return "+".join(one.name for one in neighbours(value)) or "none"


def rested(work: Iterable[NeighbourWork], from_ns: int, to_ns: int) -> str:
    """Who had nothing to do for a part of a round, which is no round of the mix then; empty where nobody had. One whose
    requests arrive at a rate rests as the rate has it.
    """
    for one in work:
        if one.load and one.load.request_rate:
            continue
        idle = 1 - one.busy_ns(from_ns, to_ns) / (to_ns - from_ns)
        if idle > PAUSE_SHARE:
            return f"{one.name} was not under its load for {idle:.0%} of the round"
    return ""


def overloaded(load: Beside, *, waiting: int, answered: int, in_s: float, first_s: float) -> str:
    """Why a load at a rate is given up, of which `waiting` requests were due and have no answer, and `answered` had one
    in the seconds after the first answer, which took `first_s`; empty where it isn't. As long as none is answered, they
    are the seconds since the first was due.
    """
    rate = load.request_rate or 0.0
    settled = in_s >= max(SETTLED_S, SETTLED_TURNS * first_s) and waiting >= max(FEW_WAITING, answered)
    if waiting < MOST_WAITING and not (settled and rate * in_s > BEYOND * answered):
        return ""
    return (
        f"request_rate={rate:g} is far more than it can serve: {answered:,} requests were answered in {in_s:.2g} s and "
        f"{waiting:,} wait; lower the rate, or let concurrency=… keep it as busy as it can be"
    )


def _option(one: tuple[object, object]) -> bool:
    name, value = one
    return isinstance(name, str) and name.isidentifier() and isinstance(value, (str, int, float)) and not flaw(value)
