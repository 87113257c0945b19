"""Each guard of joules and each fault of a board, a driver or an engine, as a whole run: never a number that passes.

Runs that are void wait between their launches and compute nothing meanwhile, so all go side by side.
"""

import json
import sys
import venv
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
from metered import ENGINE, MeteredProject
from nvml_fixtures import skip_unless_built

pytest.importorskip("pynvml")
JOULES, THROUGHPUT = "joules_per_output_token", "output_throughput"
UNSEEN = "fail DeviceGetComputeRunningProcesses NO_PERMISSION"

SECOND_METER = """
from pytest_slmperf.meters.nvml import NvmlMeter

METER = NvmlMeter()


def pytest_configure():
    METER.open()
    METER.start()


def pytest_unconfigure():
    assert METER.stop().traces[0].edges
    METER.close()
"""


@dataclass(frozen=True)
class Fault:
    """What is wrong in a run that is else as its baseline, and how the run has to say so."""

    says: str
    """Of the joules: why there is no number that passes."""
    verdict: str = "void"
    throughput: str = "void"
    scenario: tuple[str, ...] = ()
    """Of the driver, from the run's begin on."""
    event: str = ""
    """What happens in the middle of an energy round: see `MeteredProject.happens`."""
    window_s: float = 0.6
    """Longer than a busy machine is late."""


IN_TURNS = (
    {
        "the counter is reset": Fault("its energy counter went back from", event="reset {then}"),
        "permission is taken away": Fault(
            "this user may not ask for it", event="fail DeviceGetTotalEnergyConsumption NO_PERMISSION {then} {later}"
        ),
        "its hardware is hot": Fault(
            "its hardware slowed it down because it was hot", event="throttle hw_thermal {then} {later}"
        ),
        "its driver finds it hot": Fault(
            "its driver slowed it down because it was hot", event="throttle sw_thermal {then} {later}"
        ),
        "power is short": Fault("(external power brake)", event="throttle power_brake {then} {later}"),
    },
    {
        "its hardware slows it down": Fault("in two looks in a row", event="throttle hw_slowdown {then} {later}"),
        "somebody comes": Fault(
            "miner (pid 4321) came in the middle", event="process 4321 {then} {later} compute 900 miner"
        ),
        "memory fails": Fault("uncorrected memory errors (ECC)", event="ecc_uncorrected {then} {number}"),
        "the driver reports an Xid": Fault("the driver reported Xid 48", event="xid {then} 48"),
        "its power limit is lowered": Fault("its power limit was 400 W", event="power_limit {then} 400"),
    },
)
"""What happens in the middle of the five launches of a run, each of which is void: another fault in each of them."""

AMID = {
    "the counter stands still": Fault("its energy counter stood still", event="stuck {then}", window_s=1.5),
    "the GPU is lost": Fault("the GPU is lost: it fell off the bus (Xid 79)", event="lost {then}"),
    "it is hot, and its driver counts nothing": Fault(
        "its hardware slowed it down because it was hot, in",
        event="throttle hw_thermal {then} {later}",
        scenario=("missing DeviceGetFieldValues", "missing DeviceGetViolationStatus"),
    ),
    "the load pauses": Fault("the load paused for", "unmeasured", "regressed", event="engine pauses"),
}
"""What happens in the middle of each launch: what lasts, or is so from the begin, or voids none."""

FROM_THE_BEGIN = {
    "somebody is there": Fault(
        "train.py (pid 4321) was on the board before our own start", scenario=("process 4321 0 - compute 900 train.py",)
    ),
    "somebody is there through MPS": Fault(
        "train.py (pid 4321) was on the board before our own start",
        scenario=("process 4320 0 - mps 30 nvidia-cuda-mps-server", "process 4321 0 - mps 900 train.py"),
    ),
    "somebody is there, and can't be seen": Fault(
        "MiB were in use before our own start", scenario=("process 4321 0 - compute 9000", UNSEEN)
    ),
    "somebody is there, and the list is nonsense": Fault(
        "the driver's list of processes is nonsense", scenario=("process 4294967295 0 - compute 9000",)
    ),
    "its engine runs elsewhere": Fault("nothing ran on it while the load did", scenario=("load nowhere 100 500",)),
    "it gets hot": Fault("while joules were counted", scenario=("temperature 0 30", "temperature 600 60030 ramp")),
    "its clock is another": Fault(
        "its clock was 1,605 MHz in the mean, and 1,980 MHz for the baseline",
        throughput="unchanged",
        scenario=("sm_clock 0 1605",),
    ),
    "its clock isn't told": Fault(
        "its clock isn't told, and was 1,980 MHz for the baseline",
        throughput="unchanged",
        scenario=("fail DeviceGetClockInfo NO_PERMISSION",),
    ),
    "its power limit is another": Fault(
        "its power limit is 500 W, and was 700 W for the baseline",
        throughput="unchanged",
        scenario=("power_limit 0 500",),
    ),
    "its power limit holds it back": Fault(
        "its power limit held it back for 100.0% of the rounds, and for 0.0% of the baseline's",
        throughput="unchanged",
        scenario=("throttle sw_power_cap 0",),
    ),
    "an old driver has no counter": Fault(
        "its joules come from integrated power, and the baseline's from counter",
        throughput="unchanged",
        scenario=("missing DeviceGetTotalEnergyConsumption",),
    ),
    "a window is shorter than the update period": Fault(
        "and a window needs two moves", "unmeasured", "unchanged", scenario=("period 3",)
    ),
    "a driver that was updated": Fault(
        "was updated, and the machine not rebooted",
        "unmeasured",
        "unchanged",
        scenario=("init LIB_RM_VERSION_MISMATCH",),
    ),
}
"""What is so in the whole run."""


RUNS = [*IN_TURNS, *({name: fault} for name, fault in {**AMID, **FROM_THE_BEGIN}.items())]


def test_each_makes_the_run_red_and_is_named(metered, tmp_path):
    """A suite that gates throughput and joules, with a baseline of both: it says which of the two is void, and why."""

    def wrong(faults):
        """What is wrong with a run of these faults; nothing where it says each."""
        name, one = next(iter(faults.items()))
        project = metered.again(tmp_path / name.replace(" ", "-"))
        project.settings("void_retries = 0", "missing_meter = 'red'", f"window_s = {one.window_s}")
        if one.event:
            project.happens(*(fault.event for fault in faults.values()))
        said = project.run("--slmperf-report=report.json", scenario=one.scenario)
        case = case_of(project) if said.endswith("exit code 1") else {"verdicts": {}, "void_rounds": []}
        found = {metric: verdict["verdict"] for metric, verdict in case["verdicts"].items()}
        why = [verdict["reason"] for metric, verdict in case["verdicts"].items() if metric == JOULES]
        if len(faults) > 1:
            why = [void["reason"] for void in case["void_rounds"]]
        unsaid = [name for name, fault in faults.items() if not any(fault.says in reason for reason in why)]
        wanted = {THROUGHPUT: one.throughput, JOULES: one.verdict}
        return "" if found == wanted and not unsaid else f"{unsaid or name}: {found}, {why}\n{said}"

    with ThreadPoolExecutor(len(RUNS)) as side_by_side:
        told = [one for one in side_by_side.map(wrong, RUNS) if one]
    assert not told, "\n".join(told)


MARKED = {
    "who is there can't be told, persistence is off, and it waits and is held back as ever since": (
        (
            "process 4294967295 0 - compute 100",
            "persistence off",
            "throttle sync_boost 0 - 0.4",
            "throttle sw_power_cap 0 - 0.02",
        ),
        (
            "the driver's list of processes is nonsense",
            "its persistence mode is off",
            "it waited for another board's clock for 40.0% of the round",
            "its power limit held it back for 2.0% of the round",
        ),
    ),
    "MIG is on, and MPS serves": (
        ("mig 2", "process 4321 0 - mps 30 /usr/bin/nvidia-cuda-mps-server"),
        ("MIG is on: the joules are those of the whole board, of all its instances",),
    ),
}
"""What is no fault: a scenario, and what is said of it."""


@pytest.mark.parametrize("name", MARKED)
def test_what_is_no_fault_leaves_the_run_green_and_is_said(metered, tmp_path, name):
    """Beside a second meter, too."""
    scenario, notes = MARKED[name]
    project = metered.again(tmp_path)
    project.write("conftest.py", SECOND_METER)
    said = project.run(scenario=scenario)
    assert said.endswith("exit code 0"), said
    assert "2 unchanged" in said
    words = " ".join(said.split())
    assert [note for note in notes if note not in words] == [], said


def test_an_engine_that_dies_while_its_joules_are_counted_leaves_none(metered, tmp_path):
    """The run is red with the signal, and what was counted until then is judged by nothing."""
    said = metered.again(tmp_path).run(engine=f"{ENGINE},fault=dies,fault_batch=40")
    assert said.endswith("exit code 1"), said
    assert "died while serving metered/opt-125m/batch=4, and its joules are counted: signal SIGKILL" in said
    assert "unchanged" not in said


ANOTHER_PROTOCOL = """import os, sys; os.write(int(sys.argv[4]), b'{"slmperf": 99, "kind": "hello"}\\n')"""


@pytest.mark.parametrize(
    ("program", "says"),
    [
        pytest.param(ANOTHER_PROTOCOL, "speaks protocol 99", id="another protocol"),
        pytest.param("raise SystemExit(3)", "does not run our worker", id="does not start"),
    ],
)
def test_another_environment_whose_engine_does_not_come_to_serve_gives_no_verdict(tmp_path, program, says):
    """Throughput and joules side by side with an environment that has another version, or is broken."""
    skip_unless_built()
    project = MeteredProject(tmp_path)
    other = project.write("other/python", f"#!{sys.executable}\n{program}\n")
    other.chmod(0o755)
    said = project.run(f"--slmperf-against=python={other}")
    assert not said.endswith("exit code 0"), said
    assert says in said
    assert "unchanged" not in said


def test_another_environment_without_this_package_has_its_joules_compared(tmp_path):
    """In turns, on one board at one time; an environment in which nothing is installed."""
    skip_unless_built()
    project = MeteredProject(tmp_path)
    venv.create(tmp_path / "bare", with_pip=False, symlinks=True)
    said = project.run(f"--slmperf-against=python={tmp_path / 'bare/bin/python'}")
    assert said.endswith("exit code 0"), said
    assert "2 unchanged" in said


def case_of(project):
    """What the report says of the only case."""
    return json.loads((project.path / "report.json").read_text())["sweeps"][0]["cases"][0]
