"""What is said of a CPU, from what its kernel tells."""

from dataclasses import replace

import pytest

from pytest_slmperf.core.devices.edges import Edge, EnergyTrace, Look
from pytest_slmperf.core.fitness.cpu import CpuWatch, cpu_lines, packages_line
from pytest_slmperf.core.fitness.diagnosis import Grade
from pytest_slmperf.core.machine import Machine

OK, WARNING, BLOCKS, NOT_SEEN = Grade
BARE = {
    "cores": 8, "smt": True, "virtualisation": "none", "memory_gib": 62.5, "governor": "performance", "turbo": False,
    "huge_pages": "madvise",
}  # fmt: skip
QUIET = CpuWatch(
    seconds=2.0, allowed=8, present=8, busy=0.01, who="nobody", stolen=0.0, stolen_from_boot=0.0, throttled=0,
    throttled_from_boot=0,
)  # fmt: skip


def lines_of(fields, watch, threads=1):
    return {line.topic: line for line in cpu_lines(Machine("A CPU, 8 cores", "linux-6.1", fields), watch, threads)}


def test_a_bare_quiet_machine_is_fit_in_everything():
    """Nothing is warned of where nothing is the matter."""
    found = lines_of(BARE, QUIET)
    assert {line.grade for line in found.values()} == {OK}
    assert found["cpu"].said == "A CPU, 8 cores, two hardware threads a core, 62.5 GiB, linux-6.1"
    assert found["steal"].said == "no hypervisor is below this kernel"


def test_a_machine_that_tells_nothing_is_said_not_to():
    """What is hidden is never taken for good."""
    blind = replace(
        QUIET, busy=None, stolen=None, stolen_from_boot=None, throttled=None, throttled_from_boot=None,
        blind_to=("contention is not noticed",),
    )  # fmt: skip
    found = lines_of({}, blind)
    assert found.pop("cpu").grade is OK
    assert {line.grade for line in found.values()} == {NOT_SEEN}
    assert found["guards"].said == "contention is not noticed"


@pytest.mark.parametrize(
    ("fields", "watch", "threads", "topic", "grade", "said"),
    [
        ({}, {"allowed": 2, "present": 8}, 1, "cpu", OK, "2 of 8 may be used"),
        ({"cores": 1}, {"allowed": 1, "present": 8}, 1, "cpu", WARNING, "leave none to pytest"),
        ({"cores": 2}, {"allowed": 2}, 4, "cpu", BLOCKS, "an engine of 4 threads gets 2 cores"),
        ({"cores": 1.5}, {}, 1, "cpu", WARNING, "a quota of 1.5 cores' time"),
        ({"cores": 1.5}, {}, 2, "cpu", BLOCKS, "an engine of 2 threads gets 1.5 cores"),
        ({"container": "docker"}, {}, 1, "cpu", OK, "in docker"),
        ({"governor": "powersave"}, {}, 1, "governor", WARNING, "powersave: the clock follows the load"),
        ({"governor": "performance,powersave"}, {}, 1, "governor", WARNING, "performance,powersave"),
        ({"turbo": True}, {}, 1, "turbo", WARNING, "on: the clock depends on heat"),
        ({}, {"throttled": 3, "throttled_from_boot": 9}, 1, "cpu heat", BLOCKS, "3 times in 2 s"),
        ({}, {"throttled_from_boot": 9}, 1, "cpu heat", WARNING, "9 times since boot"),
        (
            {"virtualisation": "virtual"},
            {"stolen": 0.1, "stolen_from_boot": 0.002},
            1,
            "steal",
            WARNING,
            "10.0% of a core",
        ),
        ({"virtualisation": "virtual"}, {"stolen_from_boot": 0.03}, 1, "steal", WARNING, "3.0% since boot"),
        ({"virtualisation": "virtual"}, {"stolen_from_boot": 0.002}, 1, "steal", OK, "0.2% since boot"),
        ({"virtualisation": "virtual"}, {}, 1, "steal", NOT_SEEN, "none was counted since boot"),
        (
            {},
            {"busy": 0.2, "who": "cc (pid 7)"},
            1,
            "cpu load",
            WARNING,
            "20% of the cores, for 2 s in which nothing of",
        ),
        ({}, {"busy": 0.8, "who": "cc (pid 7)"}, 1, "cpu load", BLOCKS, "cc (pid 7)"),
    ],
)
def test_what_a_kernel_tells_is_graded(fields, watch, threads, topic, grade, said):
    """Each cause of noise has its line, and what isn't ok has a way out."""
    line = lines_of({**BARE, **fields}, replace(QUIET, **watch), threads)[topic]
    assert line.grade is grade
    assert said in line.said
    assert bool(line.todo) == (grade in (WARNING, BLOCKS))


MS = 1_000_000
MOVE = Edge(Look(0, 10_000, 5.0), Look(MS, MS + 10_000, 5.1))


@pytest.mark.parametrize(
    ("traces", "missing", "grade", "said"),
    [
        ([], "no joules of the CPU", NOT_SEEN, "throughput can be gated without"),
        ([EnergyTrace("CPU-0", "counter", (MOVE,))], "", OK, "of 1 package, and a move is known to 0.29 ms: ±0.03% of"),
        ([EnergyTrace("CPU-0", "counter")], "", WARNING, "didn't move"),
        ([EnergyTrace("CPU-0", "counter", (MOVE,), failure="gone")], "", WARNING, "gone"),
    ],
)
def test_the_energy_counters_of_a_cpu_are_graded(traces, missing, grade, said):
    """Joules of a CPU are a gain where there are some, and nothing blocks where there are none."""
    line = packages_line(traces, missing, 3.0)
    assert line.grade is grade
    assert said in line.said
