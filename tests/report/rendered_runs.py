"""Runs to render: made by hand, and drawn by hypothesis."""

import math
import random
from typing import get_args

from hypothesis import strategies as st

from pytest_slmperf.core.beside import Beside
from pytest_slmperf.core.devices.board import BoardFacts
from pytest_slmperf.core.devices.edges import Source
from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.machine import Machine
from pytest_slmperf.core.metrics import LATENCIES, SCALARS, metric
from pytest_slmperf.core.outcome import CaseOutcome, FreshSamples, RunOutcome, SweepOutcome
from pytest_slmperf.core.pool import ELSEWHERE, KINDS, Pool
from pytest_slmperf.core.roofline import Reading, Roof
from pytest_slmperf.core.sample import Measurement, Sample, VoidRound
from pytest_slmperf.core.verdict import Effect, Status, Verdict

MACHINE = Machine("NVIDIA H100 80GB HBM3", "580.65.06", {"memory_gib": 79.6, "hostname": "gpu-7"})
ACCEPT = "slmperf baselines accept report.json"


def sample(centre: float, launches: int = 20, rounds: int = 5, seed: int = 0, spread: float = 0.01) -> Sample:
    draw = random.Random(seed)
    return Sample.of([[centre * math.exp(draw.gauss(0, spread)) for _ in range(rounds)] for _ in range(launches)])


def effect(baseline: Sample, candidate: Sample, *, mde: float = 0.014, half: float = 0.006) -> Effect:
    ratio = candidate.median / baseline.median
    return Effect(
        baseline.median, candidate.median, ratio, ratio - half, ratio + half, mde, baseline.shape, candidate.shape
    )


def verdict(
    name: str, status: Status, case: str, compared: Effect | None = None, *, reason: str = "", way_out: str = ""
) -> Verdict:
    meaning = metric(name)
    return Verdict(
        status,
        name,
        meaning.unit,
        meaning.higher_is_better,
        case,
        tolerance=0.03,
        effect=compared,
        reason=reason,
        way_out=way_out,
    )


def case_outcome(
    batch: int, status: Status = Status.UNCHANGED, *, sweep: str = "decode", model: str = "opt-125m", seed: int = 0
) -> CaseOutcome:
    """A case with two gated metrics, of which the throughput has this status, and one that is not gated."""
    name = f"{sweep}/{model}/batch={batch}"
    loss = {Status.REGRESSED: 0.9, Status.IMPROVED: 1.1}.get(status, 1.0)
    throughput = 300.0 * batch**0.7
    before = {
        "output_throughput": sample(throughput, 20, 5, seed),
        "joules_per_output_token": sample(0.9 / batch**0.5, 20, 5, seed + 1),
    }
    now = {
        "output_throughput": sample(throughput * loss, 14, 5, seed + 2),
        "joules_per_output_token": sample(0.9 / batch**0.5, 14, 5, seed + 3),
        "p99_ttft_ms": sample(12.0 * batch**0.3, 14, 1, seed + 4),
    }
    key = {"engine": "fake", "engine_version": "1.0", "model": model, "threads": 1, "dtype": "float32"}
    compared = status not in (Status.VOID, Status.NO_BASELINE, Status.UNMEASURED, Status.INCOMPARABLE)
    way_out = f"{ACCEPT} {name}" if status is Status.REGRESSED else ""
    return CaseOutcome(
        case=name,
        coordinates={"model": model, "batch_size": batch},
        measurement=Measurement(name, key, now, void_rounds=(VoidRound(3, "throttled", "SM clock 1605 of 1980 MHz"),)),
        baseline=Measurement(name, key, before) if compared else None,
        verdicts={
            "output_throughput": verdict(
                "output_throughput",
                status,
                name,
                effect(before["output_throughput"], now["output_throughput"]) if compared else None,
                reason="" if compared else "nothing is stored for this machine",
                way_out=way_out,
            ),
            "joules_per_output_token": verdict(
                "joules_per_output_token",
                Status.UNCHANGED,
                name,
                effect(before["joules_per_output_token"], now["joules_per_output_token"]),
            ),
        },
    )


def sweep_outcome(*cases: CaseOutcome, mode: str = "gate", design: str = "stored", **fields: object) -> SweepOutcome:
    given = {
        "sweep": "decode",
        "specs": (EngineSpec("fake", "opt-125m"),),
        "versions": {"python": "3.11.7", "fake": "1.1"},
        "baseline_versions": {"python": "3.11.7", "fake": "1.0"},
        "launches": 34,
        "seconds": 61.2,
    }
    return SweepOutcome(mode=mode, design=design, cases={case.case: case for case in cases}, **{**given, **fields})


def run_outcome(*sweeps: SweepOutcome, **fields: object) -> RunOutcome:
    given = {
        "machine": MACHINE,
        "started_at": "2026-03-01T09:00:00Z",
        "seconds": 63.0,
        "commit": "0c3d2f1",
        "complete": True,
    }
    return RunOutcome(sweeps=sweeps, **{**given, **fields})


def claim(
    name: str, status: Status, *, case: str = "decode/opt-125m/batch=4", reason: str = "", limit: str = ""
) -> Verdict:
    """A stated limit, or a knee."""
    way_out = "" if status.passes else "Measure more launches."
    return Verdict(status, name, "ms", False, case, reason=reason, way_out=way_out, limit=limit)


def large_run(cases: int = 1_000) -> RunOutcome:
    """Two gated metrics each, 20×5 against 14×5; a tenth of the throughputs regressed."""
    outcomes = [
        case_outcome(
            batch, Status.REGRESSED if batch % 10 == 0 else Status.UNCHANGED, model=f"model-{batch // 100}", seed=batch
        )
        for batch in range(1, cases + 1)
    ]
    return run_outcome(sweep_outcome(*outcomes))


NAMES = st.sampled_from([*SCALARS, *(metric(name).name for name in LATENCIES), "p99_ttft_ms", "p99.9_itl_ms"])
TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
FINITE = st.floats(1e-6, 1e9)
BOUND = st.floats(0, 1e6)
SCALARS_OF_A_KEY = st.one_of(TEXT, st.integers(-(2**53), 2**53), FINITE, st.booleans(), st.none())
KEYS = st.dictionaries(TEXT, SCALARS_OF_A_KEY, max_size=4)
VERSIONS = st.dictionaries(TEXT, TEXT, max_size=3)
SAMPLES = st.lists(st.lists(FINITE, min_size=1, max_size=3), min_size=1, max_size=4).map(Sample.of)
VOIDS = st.builds(VoidRound, st.integers(0, 99), TEXT, TEXT)
SHARES = st.lists(st.floats(0, 1), max_size=3).map(tuple)
MAYBE = st.none() | FINITE
BOARDS = st.builds(BoardFacts, st.sampled_from(get_args(Source)), MAYBE, st.booleans(), SHARES, MAYBE, MAYBE)
FRESH = st.builds(
    FreshSamples,
    st.lists(st.integers(0, 99), min_size=1, max_size=3).map(tuple),
    st.dictionaries(NAMES, SAMPLES, max_size=2),
    st.lists(TEXT, max_size=1).map(tuple),
)
INTERVALS = st.lists(st.lists(st.none() | st.tuples(FINITE, FINITE)).map(tuple)).map(tuple)
EFFECTS = st.builds(
    Effect,
    FINITE,
    FINITE,
    FINITE,
    BOUND,
    st.one_of(BOUND, st.just(math.inf)),
    st.one_of(BOUND, st.just(math.inf)),
    st.just("20×5"),
    st.just("14×5"),
)


@st.composite
def case_outcomes(draw: st.DrawFn) -> CaseOutcome:
    name = draw(TEXT)

    def measurement() -> Measurement:
        return draw(
            st.builds(
                Measurement,
                st.just(name),
                KEYS,
                st.dictionaries(NAMES, SAMPLES, max_size=3),
                VERSIONS,
                st.lists(VOIDS, max_size=2).map(tuple),
                st.none() | TEXT,
                st.lists(TEXT, max_size=2).map(tuple),
                st.dictionaries(TEXT, BOARDS, max_size=2),
                st.dictionaries(NAMES, INTERVALS, max_size=2),
            )
        )

    verdicts = {
        gated: Verdict(
            draw(st.sampled_from(Status)),
            gated,
            metric(gated).unit,
            metric(gated).higher_is_better,
            name,
            draw(st.none() | st.floats(0.001, 0.15)),
            draw(st.none() | EFFECTS),
            draw(TEXT),
            draw(TEXT),
            draw(st.booleans()),
            draw(st.booleans()),
        )
        for gated in draw(st.sets(NAMES, max_size=2))
    }
    coordinates = draw(st.dictionaries(TEXT, TEXT | st.integers(0, 4096), max_size=2))
    baseline = measurement() if draw(st.booleans()) else None
    return CaseOutcome(
        name,
        coordinates,
        measurement(),
        baseline,
        verdicts,
        draw(st.none() | st.integers(0, 40)),
        draw(st.none() | FRESH),
        draw(st.none() | FRESH),
    )


SPECS = st.builds(
    EngineSpec,
    TEXT,
    TEXT,
    TEXT,
    st.integers(1, 64),
    st.dictionaries(TEXT, TEXT | st.booleans() | st.integers(0, 9) | FINITE, max_size=2),
    st.none() | TEXT,
    st.just(0.0) | st.floats(0.01, 0.5),
    st.none()
    | st.builds(Pool, st.integers(1, 64), st.sampled_from(KINDS))
    | st.builds(Pool, st.integers(1, 64), st.sampled_from(ELSEWHERE), addresses=st.lists(TEXT).map(tuple)),
    st.lists(st.builds(Beside, st.just("opt-1.3b"), batch_size=st.integers(1, 64)), max_size=2).map(tuple),
)
TEXTS = st.lists(TEXT, max_size=2).map(tuple)
SWEEPS = st.builds(
    SweepOutcome,
    sweep=TEXT,
    design=st.sampled_from(["stored", "interleaved"]),
    mode=st.sampled_from(["gate", "accept", "report"]),
    cases=st.lists(case_outcomes(), max_size=2).map(lambda cases: {case.case: case for case in cases}),
    specs=st.lists(SPECS, max_size=2).map(tuple),
    versions=VERSIONS,
    baseline_versions=st.none() | VERSIONS,
    launches=st.integers(0, 999),
    seconds=BOUND,
    skipped=VERSIONS,
    unselected=TEXTS,
    notes=TEXTS,
    baseline_specs=st.lists(SPECS, max_size=2).map(tuple),
    asked=st.dictionaries(TEXT, st.floats(0.01, 0.15), max_size=2),
    fresh_launches=st.integers(0, 99),
)
CLAIMS = st.builds(
    Verdict,
    st.sampled_from(Status),
    TEXT,
    TEXT,
    st.booleans(),
    case=TEXT,
    reason=TEXT,
    way_out=TEXT,
    limit=TEXT,
    measured=TEXT,
)
ROOFS = st.builds(
    Roof,
    st.lists(st.builds(Reading, FINITE, FINITE), min_size=1, max_size=2).map(tuple),
    st.dictionaries(TEXT, FINITE, max_size=2),
    st.floats(0, 1),
    TEXT,
    MAYBE,
)
RUNS = st.builds(
    RunOutcome,
    machine=st.builds(Machine, TEXT, TEXT, KEYS),
    sweeps=st.lists(SWEEPS, max_size=2).map(tuple),
    started_at=TEXT,
    seconds=BOUND,
    commit=st.none() | TEXT,
    complete=st.booleans(),
    problems=TEXTS,
    remarks=TEXTS,
    claims=st.lists(CLAIMS, max_size=3).map(tuple),
    whole=st.booleans(),
    tier=st.sampled_from(["quick", "gate", "full"]),
    recorded=st.booleans(),
    failed_tests=TEXTS,
    roofs=st.dictionaries(TEXT, ROOFS, max_size=2),
)
