"""What bounds the cases of a sweep, in the words of every renderer: a line for a series, and a row for a case."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from pytest_slmperf.core.explain import Bound, Explanation, explained
from pytest_slmperf.core.memory import GIB, MIB
from pytest_slmperf.core.outcome import RunOutcome, SweepOutcome
from pytest_slmperf.report.digest import Finding, short


@dataclass(frozen=True, slots=True)
class BoundRow:
    """What bounds one case, as texts; empty where that can't be known."""

    case: str
    bound: str
    of_limit: str
    """What it reaches of the most that the device allows, and which limit that is."""
    bandwidth: str
    compute: str
    power: str
    weights: str
    cache: str


def bound_rows(run: RunOutcome, sweep: SweepOutcome) -> list[BoundRow]:
    """One row for each case of which there is a model, in the order of the cases."""
    return [
        BoundRow(
            case=short(case.case, sweep),
            bound=found.bound,
            of_limit=f"{found.limit_share:.0%} ({found.limit})",
            bandwidth=f"{found.bandwidth_share:.0%}",
            compute="" if found.compute_share is None else f"{found.compute_share:.0%}",
            power="" if found.power_share is None else f"{found.power_share:.0%}",
            weights=_bytes(found.weight_bytes),
            cache=_bytes(found.cache_bytes),
        )
        for case in sweep.cases.values()
        if (found := explained(run, case))
    ]


def bounds(run: RunOutcome, sweep: SweepOutcome) -> list[Finding]:
    """What bounds a series, in one line, where something does; then where model and measurement differ by more than the
    model's error.
    """
    series: dict[str, list[tuple[str, Explanation]]] = {}
    differ: dict[str, list[str]] = {}
    for case in sweep.cases.values():
        if found := explained(run, case):
            name, _, place = short(case.case, sweep).rpartition("/")
            series.setdefault(name, []).append((place, found))
            for why in found.differs:
                differ.setdefault(why, []).append(short(case.case, sweep))
    return [
        *(Finding(f"what bounds {name}: {line}", ()) for name, cases in series.items() if (line := _line(cases))),
        *(Finding(f"model and measurement differ: {why}", tuple(cases)) for why, cases in differ.items()),
    ]


def _line(cases: Sequence[tuple[str, Explanation]]) -> str:
    """Empty where nothing that is known bounds any of them."""
    if all(found.bound is Bound.NEITHER for _, found in cases):
        return ""
    alike = groupby(cases, key=lambda one: (one[1].bound, one[1].limit))
    return "; ".join(_part(list(group)) for _, group in alike)


def _part(cases: Sequence[tuple[str, Explanation]]) -> str:
    """`batch=1 to 4: bandwidth-bound, 71–92% of the bandwidth limit`."""
    (first, found), last = cases[0], cases[-1][0].partition("=")[2]
    places = first if len(cases) == 1 else f"{first} to {last}"
    of_limit = f"{_span(one.limit_share for _, one in cases)} of the {found.limit} limit"
    if found.bound is Bound.HOST:
        of_limit = f"{_span(one.power_share or 0.0 for _, one in cases)} of its power and {of_limit}"
    return f"{places}: {of_limit}" if found.bound is Bound.NEITHER else f"{places}: {found.bound}-bound, {of_limit}"


def _span(shares: Iterable[float]) -> str:
    ordered = sorted(shares)
    low, high = f"{ordered[0]:.0%}", f"{ordered[-1]:.0%}"
    return low if low == high else f"{low.removesuffix('%')}–{high}"


def _bytes(count: float) -> str:
    return f"{count / GIB:.2f} GiB" if count >= GIB else f"{count / MIB:.1f} MiB"
