"""What a JUnit file says of a test, as its properties."""

from collections.abc import Iterable

from pytest_slmperf.core.verdict import Verdict


def properties(asserted: Iterable[Verdict]) -> list[tuple[str, str]]:
    """Name and value pairs for `item.user_properties`: each verdict that a test asserted and the figures it stands on.

    Names are `slmperf.<metric>.<field>`, a frontier's metric with underscores, and `slmperf.case` before those of a
    case; a field that the verdict has no figure for is left out. Fractions are plain numbers (0.03 for 3 %), an
    unbounded one is `inf`.
    """
    by_case: dict[str, list[tuple[str, str]]] = {}
    for verdict in dict.fromkeys(asserted):
        name = verdict.metric.replace(" ", "_")
        pairs = by_case.setdefault(verdict.case, [])
        pairs.extend((f"slmperf.{name}.{field}", value) for field, value in _fields(verdict))
    return [pair for case, pairs in by_case.items() for pair in (("slmperf.case", case), *pairs)]


def _fields(verdict: Verdict) -> list[tuple[str, str]]:
    fields = [("verdict", str(verdict.status))]
    if verdict.effect:
        effect = verdict.effect
        figures = {
            "baseline": effect.baseline,
            "candidate": effect.candidate,
            "ratio": effect.ratio,
            "ci_low": effect.low,
            "ci_high": effect.high,
            "mde": effect.mde,
        }
        fields += [(field, f"{value:.6g}") for field, value in figures.items()]
        fields.append(("unit", verdict.unit))
        fields.append(("launches", f"{effect.baseline_shape} vs {effect.candidate_shape}"))
    if verdict.tolerance is not None:
        fields.append(("tolerance", f"{verdict.tolerance:.6g}"))
    if verdict.limit:
        fields.append(("limit", verdict.limit))
    if verdict.reason:
        fields.append(("reason", verdict.reason))
    return fields
