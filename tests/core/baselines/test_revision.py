"""What may be stored, retired and pruned."""

import math
import re
from dataclasses import replace

import pytest
from baseline_files import (
    CASE,
    KEY,
    MACHINE,
    RETIREMENT,
    SIMULATED,
    accepted,
    files,
    measurement,
    recording,
    refusal,
    sample,
    stored,
)
from hypothesis import given
from hypothesis import strategies as st

from pytest_slmperf.core.baselines.baseline import instant
from pytest_slmperf.core.baselines.diff import diff
from pytest_slmperf.core.baselines.lookup import Comparable, NoBaseline, lookup
from pytest_slmperf.core.baselines.revision import POINTS_KEPT, Recording, pruned, retired, updated
from pytest_slmperf.core.devices.board import BoardFacts
from pytest_slmperf.core.errors import BaselineError, UsageError
from pytest_slmperf.core.sample import Measurement
from pytest_slmperf.run.baseline_format import parse, text_of


def test_a_recording_is_added_to_those_before():
    """Accepting keeps the earlier recordings of a case, newest last, and compares with the newest."""
    file = stored(4000.0, 4100.0)
    medians = [round(point.metrics["output_throughput"].sample.median, -2) for point in file.cases[CASE].points]
    assert medians == [4000, 4100]
    assert file.cases[CASE].current is file.cases[CASE].points[-1]


def test_only_a_few_earlier_recordings_are_kept():
    """The newest recordings stay and the oldest go: git keeps those."""
    points = stored(*(4000.0 + step for step in range(POINTS_KEPT + 3))).cases[CASE].points
    assert len(points) == POINTS_KEPT
    assert points[-1].metrics["output_throughput"].sample == sample(
        4000.0 + POINTS_KEPT + 2, seed=4000 + POINTS_KEPT + 2
    )


def test_accepting_a_recording_twice_stores_it_once():
    """The same recording takes its own place; once it is retired, accepting it again brings it back as a new one."""
    file = stored(4000.0, 4100.0)
    again = measurement(output_throughput=sample(4100.0, seed=4100))
    assert accepted(file, again) == file
    assert len(accepted(retired(file, CASE, RETIREMENT), again).cases[CASE].points) == 3


def recorded_at(when, file=None, *, median=4000.0, key=KEY, older=False):
    """The file with a recording of this date accepted."""
    measured = measurement(key=key, output_throughput=sample(median, seed=int(median)))
    return updated(file, MACHINE, "ctranslate2", "decode", replace(recording(measured), recorded=when, older=older))


MORNING, NOON = "2026-03-01T09:00:00Z", "2026-03-01T12:00:00Z"


@pytest.mark.parametrize("key", [KEY, {**KEY, "dtype": "int8"}], ids=["same key", "another key"])
def test_an_older_recording_overtakes_no_newer_one(key):
    """What is in force and was made later is not replaced in silence, also where another key would drop it."""
    file = recorded_at(NOON, recorded_at(MORNING))
    with pytest.raises(BaselineError) as caught:
        recorded_at("2026-03-01T11:59:59Z", file, median=3000.0, key=key)
    assert str(caught.value).startswith(
        f"{CASE}: this was recorded 2026-03-01T11:59:59Z, and what is in force later, {NOON}: retire that, or "
    )
    taken = recorded_at(MORNING, file, median=3000.0, key=key, older=True).cases[CASE]
    assert taken.current.recorded == MORNING
    assert taken.current is taken.points[-1]


def test_an_older_recording_overtakes_none_that_was_made_after_a_retirement():
    """Once a recording is retired and another made, accepting the first again is no way back to it."""
    file = recorded_at(NOON, retired(recorded_at(MORNING), CASE, RETIREMENT), median=4100.0)
    with pytest.raises(BaselineError, match=f"what is in force later, {NOON}"):
        recorded_at(MORNING, file)


def test_an_older_recording_may_follow_a_newer_one_that_is_retired():
    """What is retired is not in force, so it is not overtaken."""
    file = retired(recorded_at(NOON), CASE, RETIREMENT)
    assert recorded_at(MORNING, file, median=3000.0).cases[CASE].current.recorded == MORNING


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ("2026-03-01T12:00:00+02:00", "2026-03-01T11:00:00Z"),
        ("2026-03-01t09:00:00z", "2026-03-01T09:00:00.5Z"),
        ("2026-12-31T23:59:59Z", "2027-01-01T00:00:00+00:00"),
        ("2026-12-31T23:59:60Z", "2027-01-01T00:00:00Z"),
        ("2026-03-01", "2026-03-01T00:00:01Z"),
    ],
)
def test_dates_are_compared_as_instants(earlier, later):
    """However a date is written: with an offset, in small letters, with a leap second, without a time."""
    assert instant(earlier) < instant(later)


def test_other_cases_stay_as_they_are():
    """Accepting one case leaves every other case of the file alone."""
    before = stored()
    other = "decode/opt-125m/batch=8"
    after = accepted(before, measurement(other), tolerances={(other, "output_throughput"): 0.05})
    assert after.cases[CASE] == before.cases[CASE]
    assert set(after.cases) == {CASE, other}


def test_a_changed_key_starts_anew():
    """Earlier recordings of another key are dropped, since a case has one key, and the change names the field."""
    before = stored(4000.0, 4100.0)
    after = accepted(before, measurement(key={**KEY, "dtype": "int8"}))
    assert len(after.cases[CASE].points) == 1
    dropped = ", ".join(point.recorded for point in before.cases[CASE].points)
    said = f"key: {CASE} dtype: float32 (stored) → int8 (now): dropped what was recorded {dropped}"
    assert said in diff(before, after).lines()


def test_what_is_not_gated_is_not_stored_but_for_what_a_knee_is_read_from():
    """Metrics without a tolerance are left out; the throughput stays, and the inter-token latency that `bca` needs."""
    latencies = {"median_ttft_ms": sample(5.0), "median_itl_ms": sample(2.0)}
    measured = measurement(output_throughput=sample(), mean_power_w=sample(90.0), **latencies)
    file = accepted(None, measured, tolerances={(CASE, "median_ttft_ms"): 0.05})
    kept = file.cases[CASE].points[-1].metrics
    assert {name: metric.tolerance for name, metric in kept.items()} == {
        "output_throughput": None,
        "median_itl_ms": None,
        "median_ttft_ms": 0.05,
    }
    assert (kept["median_ttft_ms"].unit, kept["median_ttft_ms"].higher_is_better) == ("ms", False)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (measurement(output_throughput=sample(launches=19)), "19 launches; a baseline needs at least 20"),
        (replace(measurement(), void="throttled"), "void: throttled"),
        (measurement(key={**KEY, "planted_loss": 0.2}), "loss planted on purpose .planted_loss=0.2"),
        (measurement(key={**KEY, "engine": "fake"}), "simulated samples can't be recorded for a real machine"),
        (measurement(key={**KEY, "device": "simulated"}), "simulated samples can't be recorded for a real machine"),
        (measurement(key={**KEY, "engine": "vllm"}), "measured on vllm, and this is a baseline of ctranslate2"),
        (measurement(key={**KEY, "lengths": [1, 2]}), "its key's field lengths is \\[1, 2\\]"),
        (measurement(key={**KEY, "rate": math.nan}), "its key's field rate is nan"),
        (measurement(request_throughput=sample()), "output_throughput: unmeasured: no launch measured it"),
        (
            Measurement(CASE, KEY, {}, unmeasured={"output_throughput": "no clock"}),
            "output_throughput: unmeasured: no clock",
        ),
    ],
)
def test_what_no_gate_may_rest_on_is_refused(what, message):
    """Void, short, planted, simulated, foreign and unmeasured cases are refused by name, with the reason."""
    assert re.search(f"^{CASE}.*{message}", refusal(recording(what)))


@pytest.mark.parametrize("tolerance", [0.0, -0.1, 0.151, math.nan, math.inf])
def test_a_tolerance_is_a_small_fraction(tolerance):
    """A gate that tolerates nothing, more than 15 % or no number at all isn't stored."""
    assert "a tolerance of" in refusal(recording(tolerances={(CASE, "output_throughput"): tolerance}))


def test_nothing_is_recorded_when_nothing_is_gated():
    """A case of which no metric can be stored is refused, as is a recording without a case."""
    assert "gate=" in refusal(recording(measurement(mean_power_w=sample(90.0)), tolerances={}))
    assert "no case was measured" in refusal(Recording((), {}, "2026-01-01T00:00:00Z"))


def test_all_refusals_are_told_at_once():
    """Whoever records learns everything that stands against it, not the first thing only."""
    cases = [replace(measurement(f"decode/opt/batch={size}"), void="contended") for size in (1, 2)]
    lines = refusal(recording(*cases)).splitlines()
    assert len(lines) == 3
    assert "batch=2" in lines[2]


def test_another_machine_does_not_record_into_the_file():
    """A file holds for one machine; another one is told where to go."""
    other = replace(MACHINE, fields={**MACHINE.fields, "cores": 32})
    assert "cores: 16 (stored) → 32 (now)" in refusal(recording(), other, stored())


def test_a_simulated_engine_is_recorded_for_a_simulated_machine():
    """The fake engine's samples may be stored where nothing real is compared with them."""
    file = updated(None, SIMULATED, "fake", "decode", recording(measurement(key={**KEY, "engine": "fake"})))
    assert isinstance(lookup(file, CASE, {**KEY, "engine": "fake"}, SIMULATED), Comparable)


def test_retiring_falls_back_on_the_recording_before():
    """The gate compares with the newest recording that isn't retired."""
    file = retired(stored(4000.0, 4100.0), CASE, RETIREMENT)
    assert [point.retired for point in file.cases[CASE].points] == [None, RETIREMENT]
    assert file.cases[CASE].current is file.cases[CASE].points[0]


def test_a_case_whose_recordings_are_all_retired_has_no_baseline():
    """Nothing is left to compare with, and the last reason is said."""
    found = lookup(retired(stored(), CASE, RETIREMENT), CASE, KEY, MACHINE)
    assert isinstance(found, NoBaseline)
    assert "the fan was broken" in found.reason


def test_a_recording_is_retired_by_its_position():
    """Any recording can be retired, counted from 1 for the oldest."""
    file = retired(stored(4000.0, 4100.0), CASE, RETIREMENT, position=1)
    assert [bool(point.retired) for point in file.cases[CASE].points] == [True, False]


@pytest.mark.parametrize(
    ("case", "position", "error", "message"),
    [
        ("decode/other", None, UsageError, "nothing is stored for decode/other; stored are decode/opt-125m"),
        (CASE, 0, UsageError, "no recording 0; they are 1"),
        (CASE, 3, UsageError, "no recording 3; they are 1 .* to 2"),
        (CASE, 2, BaselineError, "recording 2 is retired already"),
    ],
)
def test_retiring_what_is_not_there_is_refused(case, position, error, message):
    """An unknown case or position is wrong usage; a recording is retired once."""
    file = retired(stored(4000.0, 4100.0), CASE, RETIREMENT)
    with pytest.raises(error, match=message):
        retired(file, case, RETIREMENT, position)


def test_retiring_when_everything_is_retired_is_refused():
    """There is nothing left to retire."""
    with pytest.raises(BaselineError, match="every recording of it is retired already"):
        retired(retired(stored(), CASE, RETIREMENT), CASE, RETIREMENT)


def test_pruning_keeps_what_is_measured():
    """Cases that no suite measures go, and a file without a case is none."""
    file = replace(stored(), cases={**stored().cases, "decode/old": stored().cases[CASE]})
    assert set(pruned(file, {CASE, "decode/new"}).cases) == {CASE}
    assert pruned(file, {"decode/new"}) is None


@given(files(), st.data())
def test_retiring_never_brings_back_a_recording(file, data):
    """After retiring, the recording in force is older than before, or there is none."""
    case = data.draw(st.sampled_from(sorted(file.cases)))
    points = file.cases[case].points
    after = retired(file, case, RETIREMENT).cases[case]
    assert after.current is (points[-2] if len(points) > 1 else None)


def metered(*, simulated, launches=20):
    """A measurement whose joules a board told."""
    boards = {"GPU-a": BoardFacts("counter", 700.0, simulated)}
    figures = {"joules_per_output_token": 0.04, "sm_clock_mhz": 1980.0, "output_throughput": 4000.0}
    return replace(measurement(**{name: sample(median, launches) for name, median in figures.items()}), boards=boards)


JOULES = {(CASE, "joules_per_output_token"): 0.03}


def test_joules_are_stored_with_the_boards_and_the_clock_that_they_hold_for():
    """The file brings them back, and the gate finds them beside the baseline."""
    file = accepted(None, metered(simulated=False), tolerances=JOULES)
    (point,) = file.cases[CASE].points
    assert set(point.metrics) == {"joules_per_output_token", "sm_clock_mhz", "output_throughput"}
    assert point.boards == {"GPU-a": BoardFacts("counter", 700.0)}
    assert parse(text_of(file, "there").encode(), "there") == file
    found = lookup(file, CASE, KEY, MACHINE)
    assert isinstance(found, Comparable)
    assert found.measurement.boards == point.boards


PACED = {"output_throughput": 4000.0, "peak_memory_bytes": 1e9, "core_pace_ns": 150_000.0}


@pytest.mark.parametrize(
    ("gated", "kept"),
    [
        ("output_throughput", {"output_throughput", "core_pace_ns"}),
        ("peak_memory_bytes", {"output_throughput", "peak_memory_bytes"}),
    ],
)
def test_the_pace_of_the_cores_is_stored_where_a_time_is_gated(gated, kept):
    """So that a later gate can tell slower cores from a slower engine; memory is no matter of pace."""
    measured = measurement(**{name: sample(median) for name, median in PACED.items()})
    file = accepted(None, measured, tolerances={(CASE, gated): 0.05})
    found = lookup(file, CASE, KEY, MACHINE)
    assert set(found.measurement.samples) == kept


def test_where_no_joules_are_gated_nothing_of_a_board_is_stored():
    """A baseline of throughput alone holds whatever board told joules beside it."""
    (point,) = accepted(None, metered(simulated=True)).cases[CASE].points
    assert (set(point.metrics), point.boards) == ({"output_throughput"}, {})


def test_simulated_joules_are_refused_for_a_real_machine():
    """What a stand-in driver told becomes no baseline of anything real."""
    with pytest.raises(BaselineError, match="its joules are simulated: a stand-in driver told them"):
        accepted(None, metered(simulated=True), tolerances=JOULES)
