"""What several workers of one run measured, each on a GPU of its own, as the outcome of the run.

Its machine is that of all of them, and so says of none which GPU a sweep was measured on: a note of the sweep does.
"""

from collections.abc import Sequence
from dataclasses import replace

from pytest_slmperf.core.machine import GPU_UUID, Machine, same, shown
from pytest_slmperf.core.outcome import RunOutcome, SweepOutcome

ON = "measured on "


def joined(outcomes: Sequence[RunOutcome]) -> RunOutcome:
    """All that they measured: as long as the longest, as whole as the least whole, and on a machine that has all of
    their GPUs.
    """
    first = min(outcomes, key=lambda one: one.started_at)
    several = len({one.machine.fields.get(GPU_UUID) for one in outcomes}) > 1
    return replace(
        first,
        machine=_machine([one.machine for one in outcomes]),
        sweeps=tuple(_placed(sweep, one.machine, several=several) for one in outcomes for sweep in one.sweeps),
        seconds=max(one.seconds for one in outcomes),
        complete=all(one.complete for one in outcomes),
        problems=tuple(dict.fromkeys(line for one in outcomes for line in one.problems)),
        remarks=tuple(dict.fromkeys(line for one in outcomes for line in one.remarks)),
        claims=tuple(claim for one in outcomes for claim in one.claims),
        whole=all(one.whole for one in outcomes),
        recorded=all(one.recorded for one in outcomes),
        roofs={place: roof for one in outcomes for place, roof in one.roofs.items()},
        failed_tests=tuple(dict.fromkeys(name for one in outcomes for name in one.failed_tests)),
    )


def _placed(sweep: SweepOutcome, machine: Machine, *, several: bool) -> SweepOutcome:
    """With a note on which of several GPUs it was measured, if it has none."""
    board = machine.fields.get(GPU_UUID)
    if not several or not board or any(note.startswith(ON) for note in sweep.notes):
        return sweep
    return replace(sweep, notes=(f"{ON}{board}", *sweep.notes))


def _machine(machines: Sequence[Machine]) -> Machine:
    """The first one; a field in which they differ lists what each has, such as the GPUs' UUIDs."""
    first = machines[0]
    fields = dict(first.fields)
    for name in dict.fromkeys(name for one in machines for name in one.fields):
        told = [one.fields.get(name) for one in machines]
        if not all(same(value, told[0]) for value in told):
            each = [shown(value) for value in told]
            if name == GPU_UUID:  # of what was joined before, several
                each = [board for boards in each for board in boards.split(", ")]
            fields[name] = ", ".join(dict.fromkeys(each))
    return replace(first, fields=fields)
