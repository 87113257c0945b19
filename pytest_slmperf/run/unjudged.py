"""A gate that measured and judged nothing: it could not have failed, so it has not passed either."""

from collections.abc import Iterator

from pytest_slmperf.core.outcome import RunOutcome, SweepOutcome

NOTHING = "nothing of what was measured was judged, so this gate could not have failed:"
WAYS_OUT = (
    "gate a metric here, or state a limit, as in assert point.ttft_ms <= 200; a run that is to report only says so: "
    "--slmperf-no-gate"
)


def nothing_judged(run: RunOutcome) -> list[str]:
    """Why a finished gate judged nothing of what it measured, in one text; empty where it judged something.

    Of several sweeps, one that is judged is enough.
    """
    gates = [sweep for sweep in run.sweeps if sweep.mode == "gate" and sweep.cases]
    verdicts = (verdict for sweep in gates for case in sweep.cases.values() for verdict in case.verdicts.values())
    if not (gates and run.complete) or run.claims or any(verdict.judged for verdict in verdicts):
        return []
    why = dict.fromkeys(f"{sweep.sweep}: {reason}" for sweep in gates for reason in _reasons(sweep))
    return ["\n".join([NOTHING, *why, WAYS_OUT])]


def _reasons(sweep: SweepOutcome) -> Iterator[str]:
    if sweep.ungated:
        yield (
            f"the [[tool.slmperf.machine]] that holds on this machine takes {', '.join(sweep.ungated)} out of its gate"
        )
    elif not sweep.asked and not sweep.unmetered:
        yield "its gate={…} is empty"
    yield from (verdict.reason for case in sweep.cases.values() for verdict in case.verdicts.values())
