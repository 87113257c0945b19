"""Baselines as values: what may be compared, what may be stored, and what a change changes."""

import math
import random
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_slmperf.core.baseline import BaselineFile, Retirement, case_order
from pytest_slmperf.core.diff import Diff, diff
from pytest_slmperf.core.errors import BaselineError, UsageError
from pytest_slmperf.core.lookup import Against, Comparable, Incomparable, NoBaseline, key_differences, lookup
from pytest_slmperf.core.machine import Machine, Role
from pytest_slmperf.core.revision import LEAST_LAUNCHES, POINTS_KEPT, Recording, pruned, retired, updated
from pytest_slmperf.core.sample import Measurement, Sample

MACHINE = Machine("NVIDIA H100", "580.65", {"cores": 16, "power_limit_w": 700, "kernel": "6.1.0"})
SIMULATED = Machine("simulated", "simulated")
KEY = {"engine": "ctranslate2", "engine_version": "4.8.5", "dtype": "float32", "threads": 1, "batch_size": 4}
CASE = "decode/opt-125m/batch=4"
GATED = {(CASE, "output_throughput"): 0.03}
RETIREMENT = Retirement("2026-02-01T00:00:00Z", "the fan was broken", "somebody")


def sample(median=4000.0, launches=LEAST_LAUNCHES, rounds=3, seed=0):
    draw = random.Random(seed)
    return Sample.of([[median * draw.uniform(0.99, 1.01) for _ in range(rounds)] for _ in range(launches)])


def measurement(case=CASE, key=KEY, **samples):
    return Measurement(case, key, samples or {"output_throughput": sample()})


def recording(*measurements, tolerances=GATED, **facts):
    return Recording(measurements or (measurement(),), tolerances, "2026-01-01T00:00:00Z", **facts)


def accepted(file, *measurements, tolerances=GATED):
    return updated(file, MACHINE, "ctranslate2", "decode", recording(*measurements, tolerances=tolerances))


def stored(*medians, machine=MACHINE, key=KEY):
    """A file with one case, recorded once for each of these medians."""
    file = None
    for median in medians or (4000.0,):
        one = measurement(key=key, output_throughput=sample(median, seed=int(median)))
        file = updated(file, machine, "ctranslate2", "decode", recording(one))
    return file


def refusal(what, machine=MACHINE, file=None, engine="ctranslate2"):
    with pytest.raises(BaselineError) as caught:
        updated(file, machine, engine, "decode", what)
    return str(caught.value)


# -- comparing


def test_what_was_accepted_is_found():
    """A lookup with the same key on the same machine gives the stored samples, their tolerances and their recording."""
    found = lookup(stored(), CASE, KEY, MACHINE)
    assert isinstance(found, Comparable)
    assert found.measurement.samples["output_throughput"] == sample(seed=4000)
    assert found.tolerances == {"output_throughput": 0.03}
    assert found.point.recorded == "2026-01-01T00:00:00Z"
    assert found.notes == ()


def test_every_differing_field_is_named():
    """What is incomparable names each field of the key and of the machine that differs, with both values."""
    now = replace(MACHINE, driver="590.10", fields={**MACHINE.fields, "power_limit_w": 500})
    found = lookup(stored(), CASE, {**KEY, "dtype": "int8", "option.flash": True}, now)
    assert isinstance(found, Incomparable)
    assert [str(field) for field in found.fields] == [
        "dtype: float32 (stored) → int8 (now)",
        "option.flash: absent (stored) → true (now)",
        "power_limit_w: 700 (stored) → 500 (now)",
        "driver: 580.65 (stored) → 590.10 (now)",
    ]
    assert found.reason == "; ".join(map(str, found.fields))


@pytest.mark.parametrize("file", [None, stored()])
def test_an_unknown_case_has_no_baseline(file):
    """Without a file, or without the case in it, there is no baseline."""
    assert lookup(file, "decode/opt-1.3b/batch=1", KEY, MACHINE) == NoBaseline("nothing is recorded for it")


def test_a_note_does_not_stop_a_comparison():
    """A field that is only worth a note leaves samples comparable, and is said."""
    now = replace(MACHINE, fields={**MACHINE.fields, "kernel": "6.1.9"})
    found = lookup(stored(), CASE, KEY, now)
    assert isinstance(found, Comparable)
    assert found.notes == ("kernel: 6.1.0 (stored) → 6.1.9 (now)",)


@pytest.mark.parametrize(
    ("key", "machine", "against"),
    [
        ({**KEY, "engine_version": "4.9.0"}, MACHINE, "engine_version=4.8.5"),
        ({**KEY, "threads": 2}, MACHINE, "threads=1"),
        (KEY, replace(MACHINE, driver="590.10"), "driver=580.65"),
        (KEY, Machine("NVIDIA H200", "580.65", {**MACHINE.fields, "cores": 32}), "device=NVIDIA H100"),
        (KEY, Machine("NVIDIA H200", "580.65", MACHINE.fields), "device=nvidia-h100"),
        (KEY, MACHINE, "driver=580.65"),
    ],
)
def test_the_field_that_was_asked_for_may_differ(key, machine, against):
    """A comparison across one field works where it alone differs; another device may have another number of cores."""
    assert isinstance(lookup(stored(), CASE, key, machine, Against.parse(against)), Comparable)


def test_across_one_field_any_other_is_still_named():
    """What differs beside the field that was asked for makes samples incomparable."""
    key = {**KEY, "engine_version": "4.9.0", "dtype": "int8"}
    found = lookup(stored(), CASE, key, MACHINE, Against("engine_version", "4.8.5"))
    assert isinstance(found, Incomparable)
    assert [field.field for field in found.fields] == ["dtype"]


def test_across_a_field_the_stored_value_must_be_the_one_asked_for():
    """Asking for a value that isn't the stored one is incomparable, and shows what is stored."""
    found = lookup(stored(), CASE, {**KEY, "engine_version": "4.9.0"}, MACHINE, Against("engine_version", "4.7.0"))
    assert isinstance(found, Incomparable)
    assert found.reason == "engine_version: 4.8.5 (stored), 4.7.0 was asked for"


def test_across_an_unknown_field_is_wrong_usage_that_lists_the_fields():
    """A field that neither side has is refused, with those that there are."""
    with pytest.raises(UsageError, match=r"'drivr' is no field of .*; its fields are .*driver, dtype.*threads"):
        lookup(stored(), CASE, KEY, MACHINE, Against("drivr", "1"))


@pytest.mark.parametrize("text", ["driver", "=1", "driver=", " = "])
def test_against_takes_a_key_and_a_value(text):
    """What isn't KEY=VALUE is wrong usage."""
    with pytest.raises(UsageError, match="is not KEY=VALUE"):
        Against.parse(text)


def test_against_keeps_equals_signs_of_the_value():
    """The first equals sign ends the key."""
    assert Against.parse("option.env = A=1") == Against("option.env", "A=1")


@pytest.mark.parametrize("against", [None, Against("device", "simulated"), Against("driver", "simulated")])
def test_a_simulated_machine_is_comparable_with_no_real_one(against):
    """Nothing bridges a simulated and a real machine, in either direction."""
    simulated = updated(None, SIMULATED, "fake", "decode", recording(measurement(key={**KEY, "engine": "fake"})))
    found = lookup(simulated, CASE, {**KEY, "engine": "fake"}, replace(MACHINE, driver="simulated"), against)
    assert isinstance(found, Incomparable)
    real = Against(against.field, MACHINE.flat()[against.field]) if against else None
    assert isinstance(lookup(stored(), CASE, KEY, replace(SIMULATED, fields=MACHINE.fields), real), Incomparable)


def test_a_planted_loss_is_compared_as_if_it_were_a_real_one():
    """A loss put in on purpose is no difference of the key: the gate must be able to find it."""
    assert isinstance(lookup(stored(), CASE, {**KEY, "planted_loss": 0.2}, MACHINE), Comparable)


# -- storing


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
    assert f"key: {CASE} dtype: float32 (stored) → int8 (now): older ones dropped" in diff(before, after).lines()


def test_what_is_not_gated_is_not_stored_but_for_the_throughput():
    """Metrics without a tolerance are left out; the throughput stays, for the knee is read from it."""
    measured = measurement(output_throughput=sample(), mean_power_w=sample(90.0), median_ttft_ms=sample(5.0))
    file = accepted(None, measured, tolerances={(CASE, "median_ttft_ms"): 0.05})
    kept = file.cases[CASE].points[-1].metrics
    assert {name: metric.tolerance for name, metric in kept.items()} == {
        "output_throughput": None,
        "median_ttft_ms": 0.05,
    }
    assert (kept["median_ttft_ms"].unit, kept["median_ttft_ms"].higher_is_better) == ("ms", False)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (measurement(output_throughput=sample(launches=19)), "19 launches; a baseline needs at least 20"),
        (replace(measurement(), void="throttled"), "void measurement .*: throttled"),
        (measurement(key={**KEY, "planted_loss": 0.2}), "loss planted on purpose .planted_loss=0.2"),
        (measurement(key={**KEY, "engine": "fake"}), "simulated samples can't be recorded for a real machine"),
        (measurement(key={**KEY, "device": "simulated"}), "simulated samples can't be recorded for a real machine"),
        (measurement(key={**KEY, "engine": "vllm"}), "measured on vllm, and this is a baseline of ctranslate2"),
        (measurement(key={**KEY, "lengths": [1, 2]}), "its key's field lengths is \\[1, 2\\]"),
        (measurement(key={**KEY, "rate": math.nan}), "its key's field rate is nan"),
        (measurement(request_throughput=sample()), "not measured, and can't be recorded: output_throughput"),
        (
            Measurement(CASE, KEY, {}, unmeasured={"output_throughput": "no clock"}),
            "can't be recorded: output_throughput: no clock",
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


# -- retiring and pruning


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


# -- what a change changes


def test_a_first_recording_is_new():
    """What had no baseline before is listed with its median, its shape and its tolerance."""
    assert diff(None, stored()).lines() == [
        f"new: {CASE} output_throughput {sample(seed=4000).median:.4g} tok/s (20×3 launches×rounds, tolerance 3.0%)"
    ]


@pytest.mark.parametrize(
    ("name", "before", "after", "change"),
    [
        ("output_throughput", 4000.0, 4400.0, r"\(\+10\.0%, better"),
        ("output_throughput", 4400.0, 4000.0, r"\(-9\.1%, worse"),
        ("median_ttft_ms", 4000.0, 4400.0, r"\(\+10\.0%, worse"),
        ("median_ttft_ms", 4400.0, 4000.0, r"\(-9\.1%, better"),
    ],
)
def test_a_move_says_whether_it_is_better(name, before, after, change):
    """A recording that replaces another shows both medians, the ratio, and what it means for this metric."""
    tolerances = {(CASE, name): 0.03}
    old = accepted(None, measurement(**{name: sample(before)}), tolerances=tolerances)
    new = accepted(old, measurement(**{name: sample(after)}), tolerances=tolerances)
    changes = diff(old, new)
    assert len(changes.moved) == 1
    assert changes.moved[0].ratio == pytest.approx(after / before)
    assert re.search(f"moved: {CASE} {name} .* → .*{change}", changes.lines()[0])


def test_a_tolerance_that_changed_is_listed():
    """Loosening a gate is seen in a review, also where the samples are the same."""
    file = stored()
    same = measurement(output_throughput=sample(seed=4000))
    looser = accepted(file, same, tolerances={(CASE, "output_throughput"): 0.1})
    assert diff(file, looser).lines() == [f"tolerance: {CASE} output_throughput 3.0% → 10.0%"]


def test_what_is_gone_is_listed():
    """A metric or a case without a baseline after a change shows what it had."""
    assert diff(stored(), None).lines()[0].startswith(f"gone: {CASE} output_throughput")
    assert diff(stored(), retired(stored(), CASE, RETIREMENT)).gone


def test_a_machine_that_changed_is_listed():
    """A kernel that is another than at the last recording is seen in a review."""
    changed = replace(stored(), machine=replace(MACHINE, fields={**MACHINE.fields, "kernel": "6.1.9"}))
    assert diff(stored(), changed).lines() == ["machine: kernel: 6.1.0 (stored) → 6.1.9 (now)"]


def test_changes_add_up():
    """What changed in several files is one list."""
    both = diff(None, stored()) + diff(stored(), None)
    assert (len(both.new), len(both.gone)) == (1, 1)
    assert not Diff() + Diff()
    assert Diff().lines() == ["nothing changed"]


# -- properties

scalars = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["float32", "int8", "", "a b"])
names = st.sampled_from(["dtype", "threads", "option.x", "engine_version", "prompt_tokens"])
keys = st.dictionaries(names, scalars)
machines = st.builds(
    Machine,
    st.sampled_from(["x", "y"]),
    st.sampled_from(["1", "2"]),
    st.dictionaries(st.sampled_from(["cores", "power_limit_w", "kernel", "hostname"]), st.integers(1, 2) | st.none()),
)
samples = st.builds(sample, st.floats(1e-6, 1e9), st.integers(20, 22), st.integers(1, 3), st.integers(0, 3))
metrics = st.dictionaries(st.sampled_from(["output_throughput", "median_ttft_ms", "p99_itl_ms"]), samples, min_size=1)


@st.composite
def recordings(draw):
    cases = draw(st.dictionaries(st.sampled_from(["a/m/batch=1", "a/m/batch=2", "a/n/batch=1"]), metrics, min_size=1))
    measurements = [Measurement(case, draw(keys), samples) for case, samples in cases.items()]
    gated = {(one.case, name): draw(st.floats(0.001, 0.15)) for one in measurements for name in one.samples}
    return Recording(measurements, gated, "2026-01-01T00:00:00Z", by=draw(st.sampled_from(["", "me"])))


@st.composite
def files(draw) -> BaselineFile:
    machine, file = draw(machines), None
    for one in draw(st.lists(recordings(), min_size=1, max_size=2)):
        file = updated(file, machine, "ctranslate2", "a", one)
    return file


@given(recordings(), machines, files())
def test_accept_then_lookup_finds_it(one, machine, file):
    """Whatever was accepted is found under its own key on its own machine, sample for sample."""
    before = None if file.machine.differences(machine, Role.MUST_MATCH, Role.PART_OF_DEVICE) else file
    after = updated(before, machine, "ctranslate2", "a", one)
    for measured in one.measurements:
        found = lookup(after, measured.case, measured.key, machine)
        assert isinstance(found, Comparable)
        assert found.measurement.samples == measured.samples


@given(keys, keys)
def test_key_differences_are_symmetric(one, other):
    """Two keys differ in the same fields whichever was stored."""
    there = key_differences(one, other)
    assert key_differences(other, one) == {name: (b, a) for name, (a, b) in there.items()}


@given(keys, keys, machines, machines)
def test_lookup_is_symmetric(stored_key, key, stored_on, machine):
    """What can't be compared one way can't be compared the other way, for the same fields."""
    there = lookup(stored(machine=stored_on, key=stored_key), CASE, key, machine)
    back = lookup(stored(machine=machine, key=key), CASE, stored_key, stored_on)
    assert type(there) is type(back)
    if isinstance(there, Incomparable):
        assert {field.field for field in there.fields} == {field.field for field in back.fields}


@given(keys, machines)
def test_lookup_is_reflexive(key, machine):
    """A case is comparable with itself, without a note."""
    found = lookup(stored(machine=machine, key=key), CASE, key, machine)
    assert isinstance(found, Comparable)
    assert found.notes == ()


@given(keys, keys, machines, machines, names)
def test_against_forgives_one_field_at_most(stored_key, key, stored_on, machine, field):
    """Across a field of the key whose stored value is asked for, that field is never named, and no other is hidden."""
    value = stored_key.get(field)
    if value in (None, "") or field not in {**stored_key, **key}:
        return
    plain = lookup(stored(machine=stored_on, key=stored_key), CASE, key, machine)
    across = lookup(stored(machine=stored_on, key=stored_key), CASE, key, machine, Against(field, str(value)))
    named = {one.field for one in plain.fields} if isinstance(plain, Incomparable) else set()
    still = {one.field for one in across.fields} if isinstance(across, Incomparable) else set()
    assert still == named - {field}


@given(files())
def test_the_diff_of_a_file_with_itself_is_empty(file):
    """Nothing changed between a file and itself."""
    assert not diff(file, file)
    assert diff(file, file).lines() == ["nothing changed"]


@given(files(), files())
def test_a_diff_is_mirrored(before, after):
    """What is new one way is gone the other way, and what moved has the inverse ratio."""
    there, back = diff(before, after), diff(after, before)
    assert {(one.case, one.metric.name) for one in there.new} == {(one.case, one.metric.name) for one in back.gone}
    assert [one.ratio for one in there.moved] == [pytest.approx(1 / one.ratio) for one in back.moved]
    assert len(there.tolerances) == len(back.tolerances)


@given(files(), st.data())
def test_retiring_never_brings_back_a_recording(file, data):
    """After retiring, the recording in force is older than before, or there is none."""
    case = data.draw(st.sampled_from(sorted(file.cases)))
    points = file.cases[case].points
    after = retired(file, case, RETIREMENT).cases[case]
    assert after.current is (points[-2] if len(points) > 1 else None)


def test_changes_are_listed_by_batch_size():
    """A batch of 4 comes before one of 16, whatever the names' letters say."""
    names = [f"decode/opt-1.3b/batch={size}" for size in (256, 16, 4, 1)]
    tolerances = {(name, "output_throughput"): 0.03 for name in names}
    file = accepted(None, *map(measurement, names), tolerances=tolerances)
    assert [one.case for one in diff(None, file).new] == names[::-1]


@given(st.lists(st.text()))
def test_any_names_can_be_ordered(names):
    """Names of any letters and digits, of any script, have an order."""
    assert sorted(sorted(names, key=case_order)) == sorted(names)
