"""Which cores an engine gets, and who keeps off them."""

import os
import threading

import pytest

from pytest_slmperf.core.devices.cores import cores_of
from pytest_slmperf.core.errors import UsageError
from pytest_slmperf.pool.pinning import hardware_threads
from pytest_slmperf.run.pinning import apart, choose_cores, keep_off, spread, usable_cores, used_cores


def test_an_engine_gets_one_core_for_each_thread_and_the_last_ones():
    """The first cores are where a system does its own work most."""
    allowed = sorted(os.sched_getaffinity(0))
    assert choose_cores(1) == (allowed[-1],)
    assert choose_cores(len(allowed)) == tuple(allowed)


def test_more_threads_than_cores_are_refused():
    """The error says how many there are, and what to set."""
    cores = len(os.sched_getaffinity(0))
    with pytest.raises(UsageError, match=f"{cores + 1} threads on {cores} cores? .*: set threads to {cores} or less"):
        choose_cores(cores + 1)


def test_more_replicas_than_cores_are_refused_with_how_many_are_needed():
    """Lower threads help as well as fewer replicas."""
    cores = len(os.sched_getaffinity(0))
    words = f"{cores} replicas of 2 threads on {cores} cores? .*: {2 * cores} cores are needed"
    with pytest.raises(UsageError, match=words):
        choose_cores(2, cores)


@pytest.mark.parametrize(
    ("threads", "replicas", "words"), [(2, 1, "2 threads on"), (1, 2, "2 replicas of 1 thread on")]
)
def test_a_control_groups_quota_is_all_that_there_is(tmp_path, threads, replicas, words):
    """Whatever cores it may run on: more threads than that would be stopped by turns."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core is one anyhow")
    for name, text in {"proc/self/cgroup": "0::/pod\n", "sys/fs/cgroup/pod/cpu.max": "150000 100000\n"}.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text)
    assert len(choose_cores(1, root=tmp_path)) == usable_cores(root=tmp_path) == 1
    with pytest.raises(UsageError, match=rf"{words} 1 core \(that is what the control group, cgroup, gives of "):
        choose_cores(threads, replicas, root=tmp_path)


@pytest.mark.parametrize(
    ("threads", "replicas", "chosen"),
    [
        (1, 2, [7, 3]),
        (2, 2, [7, 6, 3, 2]),
        (2, 3, [7, 6, 3, 2, 5, 4]),
        (3, 2, [7, 6, 5, 3, 2, 1]),
        (5, 1, [7, 6, 5, 4, 3]),
    ],
)
def test_the_cores_of_a_replica_are_on_one_node_where_they_fit(threads, replicas, chosen):
    """And replicas on as many nodes as there are, each of which has a memory of its own."""
    ranked = [7, 6, 5, 4, 3, 2, 1, 0]
    found = apart(ranked, threads, replicas, nodes={core: core // 4 for core in ranked})
    assert found == chosen[: threads * replicas]
    assert len(set(found)) == len(found)


def test_replicas_share_no_core_before_each_has_one_of_its_own():
    """Second hardware threads are ranked last."""
    assert apart([7, 6, 5, 4, 3, 2, 1, 0], 1, 4, nodes={}) == [7, 6, 5, 4]


def test_cores_that_this_process_may_not_use_are_not_given_away():
    """A container's or taskset's share of the machine is all that there is."""
    allowed = os.sched_getaffinity(0)
    first = min(allowed)
    os.sched_setaffinity(0, {first})
    try:
        assert choose_cores(1) == (first,)
    finally:
        os.sched_setaffinity(0, allowed)


def test_a_second_hardware_thread_is_taken_last():
    """Whole cores come first, however a machine numbers their threads."""
    pairs = {core: frozenset({core % 4, core % 4 + 4}) for core in range(8)}
    assert spread(range(7, -1, -1), pairs) == [7, 6, 5, 4, 3, 2, 1, 0]
    neighbours = {core: frozenset({core // 2 * 2, core // 2 * 2 + 1}) for core in range(8)}
    assert spread(range(7, -1, -1), neighbours) == [7, 5, 3, 1, 6, 4, 2, 0]


@pytest.mark.parametrize(
    ("listed", "cores"), [("0\n", {0}), ("0-3", {0, 1, 2, 3}), ("0,4", {0, 4}), ("1-2,8", {1, 2, 8}), ("", set())]
)
def test_the_kernels_lists_of_cores_are_read(listed, cores):
    """Single numbers, ranges and both, and an empty list."""
    assert cores_of(listed) == cores


def test_a_core_shares_at_least_with_itself():
    """Also one of which the kernel tells nothing."""
    assert 0 in hardware_threads(0)
    assert hardware_threads(100_000) == {100_000}


def test_all_threads_keep_off_the_cores_for_as_long_as_it_lasts():
    """Every thread of this process goes elsewhere, and back where it was."""
    allowed = os.sched_getaffinity(0)
    core = max(allowed)
    elsewhere = allowed - {core} or allowed  # with one core there is nowhere else to go
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        with keep_off({core}):
            assert os.sched_getaffinity(0) == elsewhere
            assert os.sched_getaffinity(thread.native_id) == elsewhere
        assert os.sched_getaffinity(0) == allowed
        assert os.sched_getaffinity(thread.native_id) == allowed
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("cores", [None, (), "all"])
def test_nobody_moves_where_there_is_nowhere_to_go_or_nothing_to_keep_off(cores):
    """An engine on all cores, or on none of its own, leaves this process where it is."""
    allowed = os.sched_getaffinity(0)
    with keep_off(allowed if cores == "all" else cores):
        assert os.sched_getaffinity(0) == allowed


def test_what_sends_an_engines_requests_may_have_moved_off_its_cores():
    """Then both are watched; without cores of its own, an engine has none."""
    allowed = os.sched_getaffinity(0)
    assert used_cores(os.getpid(), (max(allowed) + 1,)) == (*sorted(allowed), max(allowed) + 1)
    assert used_cores(os.getpid(), (min(allowed),)) == tuple(sorted(allowed))
    assert used_cores(os.getpid(), None) is None
    assert used_cores(2**22 + 1, (3,)) == (3,)
