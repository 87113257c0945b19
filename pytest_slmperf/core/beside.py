"""Different models side by side on one device: who runs beside the one that is measured, and what it did meanwhile."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields

from pytest_slmperf.core.errors import UsageError
from pytest_slmperf.core.flaw import flaw
from pytest_slmperf.core.units import NS_PER_S

CORES = ("own", "shared")
PAUSE_SHARE = 0.05
"""Of a round, that a model beside may have had nothing to do: between two batches, the time to begin the next."""
MOST_TOKENS = 1_000_000
MOST_PLACES = 100_000


@dataclass(frozen=True, slots=True)
class Beside:
    """Another model that the same engine serves beside the one that is measured, under a load of its own.

        Sweep("mix", StaticBatch(prompt_tokens=32, output_tokens=32), batch_size=[8], model=["opt-125m"],
              beside=[None, Beside("opt-1.3b", batch_size=4, prompt_tokens=32, output_tokens=32)])

    With `batch_size` it serves static batches, one after the other; with `concurrency` so many requests are always
    under way, which takes an engine that streams. `dtype` and `threads` are by default those of the measured engine.
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

    def __post_init__(self) -> None:
        if not isinstance(self.model, str) or not self.model or flaw(self.model):
            raise UsageError(f"Beside(model={self.model!r}); it takes a model's name or path")
        if (self.batch_size is None) is (self.concurrency is None):
            raise UsageError(f"Beside({self.model!r}): it takes one of batch_size and concurrency")
        counted = {"batch_size": MOST_PLACES, "concurrency": MOST_PLACES, "threads": MOST_PLACES}
        counted |= {"prompt_tokens": MOST_TOKENS, "output_tokens": MOST_TOKENS}
        for name, most in counted.items():
            value = getattr(self, name)
            if value is None and not name.endswith("tokens"):
                continue
            if type(value) is not int or not 1 <= value <= most:
                raise UsageError(f"Beside({self.model!r}): {name}={value!r}; it takes a whole number, 1 to {most:,}")
        if self.dtype is not None and not (isinstance(self.dtype, str) and self.dtype):
            raise UsageError(f"Beside({self.model!r}): dtype={self.dtype!r}; it takes a name, as 'int8'")
        if self.cores not in CORES:
            raise UsageError(f"Beside({self.model!r}): cores={self.cores!r}; it takes {' or '.join(map(repr, CORES))}")

    @property
    def at(self) -> int:
        """Its batch, or how many requests are under way."""
        return self.batch_size or self.concurrency or 0

    @property
    def name(self) -> str:
        """What cases are called by: `opt-1.3b@4`."""
        return f"{self.model.rstrip('/').rpartition('/')[2]}@{self.at}"

    @property
    def load(self) -> str:
        """`batch of 4, 32+32 tokens`, for a key."""
        kind = "batch" if self.batch_size else "concurrency"
        return f"{kind} of {self.at}, {self.prompt_tokens}+{self.output_tokens} tokens"


@dataclass(frozen=True, slots=True)
class NeighbourWork:
    """What one that ran beside did: (began, ended, prompt tokens, output tokens, requests) of each batch or request, by
    the clock of the engine that was measured.
    """

    name: str
    """`opt-1.3b@4 (core 1)`."""
    done: tuple[tuple[int, int, int, int, int], ...]

    def within(self, from_ns: float, to_ns: float) -> tuple[float, float, float]:
        """Prompt tokens, output tokens and requests between these instants; of what they cut in two, a share."""
        total = [0.0, 0.0, 0.0]
        for began, ended, *amounts in self.done:
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
    """Who had nothing to do for a part of a round, which is no round of the mix then; empty where nobody had."""
    for one in work:
        idle = 1 - one.busy_ns(from_ns, to_ns) / (to_ns - from_ns)
        if idle > PAUSE_SHARE:
            return f"{one.name} was not under its load for {idle:.0%} of the round"
    return ""


def rates_of(
    rounds: Sequence[Sequence[NeighbourWork]], spans: Sequence[tuple[int, int]]
) -> dict[str, tuple[float, ...]]:
    """Tokens per second of each that ran beside, one value a round: of what it generated within the round."""
    found: dict[str, list[float]] = {}
    for some, (from_ns, to_ns) in zip(rounds, spans, strict=True):
        for number, one in enumerate(some, 1):
            rate = one.within(from_ns, to_ns)[1] / (to_ns - from_ns) * NS_PER_S
            found.setdefault(f"beside_{number}_output_throughput", []).append(rate)
    return {name: tuple(values) for name, values in found.items() if all(value > 0 for value in values)}


def names_note(work: Sequence[NeighbourWork]) -> str:
    """Who is who among the metrics."""
    return ", ".join(f"beside_{number} is {one.name}" for number, one in enumerate(work, 1))
