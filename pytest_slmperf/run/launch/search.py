"""A search in a launch: the highest place within the limits, by a probe at one place after the other."""

from pytest_slmperf.core.protocol import Measured, Play
from pytest_slmperf.core.sweeps.search import Probe
from pytest_slmperf.run import searching
from pytest_slmperf.run.guards import Void
from pytest_slmperf.run.launch.rounds import Case, Found, Rounds, rested_beside
from pytest_slmperf.run.launch.traffic import send
from pytest_slmperf.run.metering import EnergyRound, without
from pytest_slmperf.run.pace import Slowness


def measure(rounds: Rounds, case: Case) -> Found:
    """Look for the highest place within the limits."""
    terms, load = rounds.terms, case.load
    assert load.search is not None  # noqa: S101 - its place is searched for
    assert terms.slo is not None  # noqa: S101 - a sweep that searches has limits
    most, tried = load.search.most, 0

    def probe(place: float, ask: Play) -> Probe | None:
        nonlocal tried
        tried += 1
        told: list[searching.Probed] = []

        def attempt(slow: Slowness) -> tuple[Measured, Void | None]:
            answer, measured, void = send(rounds, case, ask, slow)
            told.append(searching.judged(answer.traffic, place, ask, terms.policy))
            return measured, void or told[-1].void or rested_beside(measured)

        terms.progress(load.case, tried, most)
        rounds.process.doing = f"sending {load.case}, at {place:.4g}"
        if rounds.valid(case, attempt) is None:
            return None
        case.notes.extend(note for note in told[-1].notes if note not in case.notes)
        return told[-1].probe

    probes = searching.search(load, terms.policy, terms.slo, probe)
    if not probes:
        return Found(void=f"probe {tried} stayed void")
    values, unmeasured, notes = searching.values_of(load, probes)
    no_peak = f"{searching.OF_MANY}, and a peak of memory would be of none"
    return Found(
        values,
        {**unmeasured, "peak_memory_bytes": no_peak},
        notes,
        energy=without(f"{searching.OF_MANY}, and counts no joules") if terms.energy else EnergyRound(),
    )
