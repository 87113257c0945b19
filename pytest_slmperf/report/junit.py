"""What a JUnit file says of a case, as the properties of its tests."""

from pytest_slmperf.core.outcome import CaseOutcome
from pytest_slmperf.core.verdict import Verdict


def properties(case: CaseOutcome) -> list[tuple[str, str]]:
    """Name and value pairs for `item.user_properties`: per gated metric the verdict and the figures it stands on.

    Names are `slmperf.<metric>.<field>`; a field that the verdict has no figure for is left out. Fractions are plain
    numbers (0.03 for 3 %), an unbounded one is `inf`.
    """
    pairs = [("slmperf.case", case.case)]
    for name, verdict in case.verdicts.items():
        pairs.extend((f"slmperf.{name}.{field}", value) for field, value in _fields(verdict))
    return pairs


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
    if verdict.reason:
        fields.append(("reason", verdict.reason))
    return fields
