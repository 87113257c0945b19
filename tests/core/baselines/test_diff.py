"""What a change of a baseline changes."""

import re
from dataclasses import replace

import pytest
from baseline_files import CASE, MACHINE, RETIREMENT, accepted, files, keys, measurement, sample, stored
from hypothesis import given
from hypothesis import strategies as st

from pytest_slmperf.core.baselines.baseline import case_order
from pytest_slmperf.core.baselines.diff import Diff, diff
from pytest_slmperf.core.baselines.lookup import key_differences
from pytest_slmperf.core.baselines.revision import retired


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


def test_what_a_machine_says_of_a_single_run_is_no_change_of_it():
    """The caches that the first recording fills differ at the second, and mean nothing."""
    before, after = (
        replace(stored(), machine=replace(MACHINE, fields={**MACHINE.fields, "compile_caches": caches}))
        for caches in ("none", "torch")
    )
    assert not diff(before, after)


def test_a_new_case_has_one_line():
    """With each of its gated metrics."""
    names = ("output_throughput", "median_tpot_ms")
    tolerances = {(CASE, name): 0.05 for name in names}
    samples = {name: sample() for name in (*names, "median_itl_ms")}
    file = accepted(None, measurement(**samples), tolerances=tolerances)
    (said,) = diff(None, file).lines()
    assert said.startswith(f"new: {CASE} ")
    assert said.endswith("; not gated: median_itl_ms")
    assert sorted(part.split(" ")[0] for part in said.removeprefix(f"new: {CASE} ").split("; ")[:2]) == sorted(names)
    assert diff(file, None).lines() == [said.replace("new:", "gone:", 1)]


def test_what_is_not_gated_is_named_in_one_line():
    """It is stored for a knee, a frontier or a clock, and nobody has to judge its figures."""
    names = ("output_throughput", "median_itl_ms")
    file = accepted(None, measurement(**{name: sample() for name in names}))
    both = accepted(file, measurement(**{name: sample(4400.0, seed=1) for name in names}))
    assert diff(file, both).lines()[1].startswith(f"moved: {CASE}, not gated: median_itl_ms +")


def test_changes_add_up():
    """What changed in several files is one list."""
    both = diff(None, stored()) + diff(stored(), None)
    assert (len(both.new), len(both.gone)) == (1, 1)
    assert not Diff() + Diff()
    assert Diff().lines() == ["nothing changed"]


@given(keys, keys)
def test_key_differences_are_symmetric(one, other):
    """Two keys differ in the same fields whichever was stored."""
    there = key_differences(one, other)
    assert key_differences(other, one) == {name: (b, a) for name, (a, b) in there.items()}


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


def test_changes_are_listed_by_batch_size():
    """A batch of 4 comes before one of 16, whatever the names' letters say."""
    names = [f"decode/opt-1.3b/batch={size}" for size in (256, 16, 4, 1)]
    tolerances = {(name, "output_throughput"): 0.03 for name in names}
    file = accepted(None, *map(measurement, names), tolerances=tolerances)
    assert [one.case for one in diff(None, file).new] == names[::-1]


def test_rates_are_ordered_by_their_fractions():
    """Which are no whole numbers: 2.25 comes before 2.5, and both before 10."""
    names = [f"rate/opt-1.3b/rate={rate}" for rate in (0.5, 2, 2.25, 2.5, 10, 12.5)]
    assert sorted(sorted(names), key=case_order) == names


def test_variants_are_ordered_by_their_numbers_before_their_places():
    """The cases of a curve follow each other, and 10 replicas come after 2."""
    names = [
        f"decode/opt-1.3b/replicas={count}/dtype=int8/batch-each={size}" for count in (1, 2, 10) for size in (1, 4, 16)
    ]
    assert sorted(sorted(names), key=case_order) == names


@given(st.lists(st.text() | st.from_regex(r"[a=.0-9]{0,9}", fullmatch=True)))
def test_any_names_can_be_ordered(names):
    """Names of any letters and digits, of any script, have an order."""
    assert sorted(sorted(names, key=case_order)) == sorted(names)
