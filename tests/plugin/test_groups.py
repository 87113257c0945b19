"""Which worker a performance test goes to, by the id that pytest-xdist schedules it by."""

import pytest

from pytest_slmperf.plugin.roster import Groups, collected_as, group_of, grouped_as


@pytest.mark.parametrize("group", [0, 1, 11])
def test_a_grouped_id_tells_the_test_and_its_group(group):
    """What was collected comes back, whatever brackets and signs it holds."""
    name = "suites/test_decode.py::test_throughput[opt@125m-batch4]"
    grouped = grouped_as(name, group)
    assert (collected_as(grouped), group_of(grouped)) == (name, group)
    assert (collected_as(name), group_of(name)) == (name, 0)


def test_files_are_dealt_out_and_a_sweep_stays_with_one_worker():
    """It is measured once, whichever files look at it."""
    groups = Groups(2)
    tests = [("a.py::one", "x"), ("a.py::two", None), ("b.py::one", "y"), ("b.py::two", "x"), ("c.py::one", "z")]
    assert [groups.of(*test) for test in tests] == [0, 0, 1, 0, 0]
    assert [groups.of(*test) for test in tests] == [0, 0, 1, 0, 0]
    assert groups.elsewhere(0) == {"y"}
    assert groups.elsewhere(1) == {"x", "z"}


def test_one_group_has_everything():
    """Nothing is elsewhere."""
    groups = Groups()
    assert {groups.of(f"{file}.py::test", file) for file in "abc"} == {0}
    assert groups.elsewhere(0) == frozenset()
