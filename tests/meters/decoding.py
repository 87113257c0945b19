"""Work on a virtual clock, for tests of the meter: steps of so many tokens, as long as the clock has run."""

from pytest_slmperf.core.energy.tally import STEP_SWING, Work

NS = 1_000_000_000


def steps(from_ns, to_ns, *, step_s=0.023, tokens=64, swing=STEP_SWING):
    """Decode steps of one length from one instant to the other, as many as fit."""
    step_ns = round(step_s * NS)
    return tuple(Work(at, at + step_ns, tokens, swing=swing) for at in range(from_ns, to_ns - step_ns + 1, step_ns))
