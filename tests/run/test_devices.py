"""Which device an engine takes, what machine that is, and that no two jobs measure on the same."""

import os
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import nvml_standin
import pytest
from nvml_fixtures import driver, stub  # noqa: F401

from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.errors import DeviceBusy, EngineUnavailable, UsageError
from pytest_slmperf.core.machine import Role
from pytest_slmperf.core.pool import Pool
from pytest_slmperf.run import pinning
from pytest_slmperf.run.devices import Device, HeldDevices, device_of, machine_of, too_few_gpus
from pytest_slmperf.run.metering import elsewhere, open_nvml

FIRST, SECOND = (f"GPU-00000000-0000-4000-8000-{board:012}" for board in range(2))


@pytest.fixture
def gpus(driver, monkeypatch):  # noqa: F811 - a fixture's name
    """Two boards that this process may see."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    driver("boards 2")


@pytest.mark.parametrize(
    ("engine", "options", "device"),
    [
        ("fake", {}, Device("simulated")),
        ("ctranslate2", {}, Device("cpu")),
        ("ctranslate2", {"device": "cuda"}, Device("cuda")),
        ("ctranslate2", {"device": "cuda", "device_index": 1}, Device("cuda", 1)),
        ("ctranslate2", {"device_index": 1}, Device("cpu")),
        ("transformers", {}, Device("cuda")),
        ("transformers", {"device": "cpu"}, Device("cpu")),
        ("of another package", {}, Device("cpu")),
        ("openai", {"url": "http://127.0.0.1:8000/v1"}, Device("cpu")),
        ("openai", {"url": "http://127.0.0.1:8000/v1", "device": "cuda"}, Device("cuda")),
        ("openai", {"url": "http://10.0.0.7:8000/v1"}, Device("remote:10.0.0.7:8000")),
        ("of another package", {"device": "cuda:1"}, Device("cuda", 1)),
        ("of another package", {"device": "tpu"}, Device("tpu")),
        ("of another package", {"device": "cuda", "tensor-parallel-size": 2}, Device("cuda", 0, 2)),
        (
            "of another package",
            {"device": "cuda:1", "tensor_parallel_size": 2, "pipeline_parallel_size": 3, "data_parallel_size": 0},
            Device("cuda", 1, 6),
        ),
        ("of another package", {"device": "cpu", "tensor_parallel_size": 2}, Device("cpu")),
        ("of another package", {"device": f"cuda:{'9' * 5000}"}, Device("cuda")),
    ],
)
@pytest.mark.usefixtures("gpus")
def test_an_engine_runs_where_its_options_say_or_else_where_it_does_by_default(engine, options, device):
    """An engine of another package that says nothing of a device is taken for one on the CPU."""
    assert device_of(engine, options) == device


def test_a_gpu_before_the_first_is_refused():
    """Some engines would take the last one for it, whose joules are not the first one's."""
    with pytest.raises(UsageError, match="there is no GPU -1: they are counted from 0"):
        device_of("transformers", {"device": "cuda", "device_index": -1})


def test_a_server_elsewhere_is_a_machine_of_which_nothing_is_known():
    """But its address; what this machine is goes along, and has no joules of that one."""
    device = device_of("openai", {"url": "https://llm.example.org/v1"})
    machine = machine_of(device)
    assert (machine.device, machine.driver, machine.kind) == ("remote llm.example.org:443", "unknown", "remote")
    assert machine.runs("remote:llm.example.org:443")
    assert set(machine.fields) <= {"client", "client_kernel"}
    assert not machine.differences(replace(machine, fields={"client": "another"}), Role.MUST_MATCH, Role.PART_OF_DEVICE)
    source = elsewhere(window_s=1, lead_in_s=0).source
    assert source.missing == "the server is on another machine, and its joules can't be read from here"


@pytest.mark.parametrize(("visible", "kind"), [("", "cpu"), ("-1", "cpu"), ("1", "cuda"), (SECOND, "cuda")])
@pytest.mark.usefixtures("gpus")
def test_an_engine_that_chooses_takes_a_gpu_if_it_may_see_one(monkeypatch, visible, kind):
    """As CUDA_VISIBLE_DEVICES lets it: an empty value and -1 hide them all."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert device_of("transformers", {}).kind == kind


def test_without_a_driver_an_engine_that_chooses_takes_the_cpu(driver):  # noqa: F811 - a fixture's name
    """A GPU that can't be asked is none for it."""
    driver("init DRIVER_NOT_LOADED")
    assert device_of("transformers", {}) == Device("cpu")


@pytest.mark.parametrize(
    ("visible", "index", "uuid"),
    [(None, 0, FIRST), (None, 1, SECOND), ("1", 0, SECOND), ("1,0", 1, FIRST), (f"{SECOND},{FIRST}", 0, SECOND)],
)
@pytest.mark.usefixtures("gpus")
def test_the_machine_is_the_board_that_the_engine_sees_under_its_index(monkeypatch, visible, index, uuid):
    """CUDA counts what CUDA_VISIBLE_DEVICES leaves."""
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert machine_of(Device("cuda", index)).fields["gpu_uuid"] == uuid


@pytest.mark.usefixtures("gpus")
def test_a_board_that_the_engine_may_not_see_is_refused(monkeypatch):
    """The number is counted among the visible ones, and the line says how many those are."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    with pytest.raises(UsageError, match=r"there is no GPU 1: CUDA_VISIBLE_DEVICES=1 shows 1"):
        machine_of(Device("cuda", 1))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    with pytest.raises(EngineUnavailable, match=r"there is no GPU 2: this machine has 2"):
        machine_of(Device("cuda", 2))


@pytest.mark.parametrize(("visible", "uuids"), [(None, [FIRST, SECOND]), ("1,0", [SECOND, FIRST])])
@pytest.mark.usefixtures("gpus")
def test_an_engine_on_several_gpus_has_the_joules_of_all_of_them(monkeypatch, visible, uuids):
    """Those from its index on that it may see, in their order; one that isn't there is named."""
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    both = Device("cuda", 0, 2)
    assert machine_of(both).fields["gpu_uuid"] == ", ".join(uuids)
    assert machine_of(both).device == "simulated 2 x NVIDIA H100 80GB HBM3"
    with closing(open_nvml(window_s=1, lead_in_s=0, count=2)) as metering:
        assert metering.source.boards == tuple(uuids)
    error = EngineUnavailable if visible is None else UsageError
    with pytest.raises(error, match=r"there is no GPU 2"):
        machine_of(Device("cuda", 1, 2))


@pytest.mark.usefixtures("gpus")
def test_a_job_on_several_gpus_holds_each_of_them(run):
    """Whoever wants one of them waits."""
    one = run()
    one.hold([Device("cuda", 0, 2)])
    assert [taken(run(), Device("cuda", index)) for index in (0, 1)] == [True, True]
    one.close()


@pytest.fixture
def run(tmp_path):
    """Makes the devices of a run; its locks are this test's own."""
    return lambda: HeldDevices(wait_s=0, say=lambda _: None, folder=tmp_path)


def taken(other, device):
    """Whether a job that comes now has to wait for the device."""
    try:
        other.hold([device])
    except DeviceBusy:
        return True
    finally:
        other.close()
    return False


@pytest.mark.parametrize(
    ("holds", "busy"),
    [
        ("cpu", {"cpu", "cuda", "cuda:1"}),
        ("cuda", {"cpu", "cuda"}),
        ("cuda:1", {"cpu", "cuda:1"}),
        ("simulated", set()),
    ],
)
@pytest.mark.usefixtures("gpus")
def test_jobs_share_a_machine_where_each_has_its_own_board(run, holds, busy):
    """A job on the CPU wants all of it; jobs on two boards leave each other alone; a simulated one takes nothing."""
    devices = {name: device_of("any", {"device": name}) for name in ("cpu", "cuda", "cuda:1", "simulated")}
    one = run()
    one.hold([devices[holds]])
    one.hold([devices[holds]])
    assert {name for name, device in devices.items() if taken(run(), device)} == busy
    one.close()
    assert not any(taken(run(), device) for device in devices.values())


HOLDER = """
import sys
from pathlib import Path

from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.run.devices import Device, HeldDevices

held = HeldDevices(wait_s=0, say=print, folder=Path(sys.argv[1]))
held.hold([Device("cuda")])
print(*held.cores(EngineSpec("any", "model")), flush=True)
sys.stdin.read()
"""


@pytest.mark.usefixtures("gpus")
def test_jobs_on_two_boards_take_cores_of_their_own(run, tmp_path):
    """Each keeps its own for all its launches; where none is left, it is said."""
    ranked = pinning.ranked_cores()
    if len(ranked) < 2:
        pytest.skip("one core has nothing to share")
    one_thread, all_threads = (EngineSpec("any", "model", threads=threads) for threads in (1, len(ranked)))
    environment = {**os.environ, **nvml_standin.environment(Path(os.environ[nvml_standin.SCENARIO]))}
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    one = run()
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline().split() == [str(ranked[0])]
        one.hold([Device("cuda", 1)])
        assert one.cores(one_thread) == one.cores(one_thread) == (ranked[1],)
        with pytest.raises(DeviceBusy, match="jobs on other GPUs of this machine leave"):
            one.cores(all_threads)
        other.stdin.close()
    assert one.cores(all_threads) == tuple(sorted(ranked))
    one.close()


def test_a_job_on_the_cpu_has_the_best_cores_and_a_simulated_one_none(run):
    """Nobody else can have taken them."""
    one = run()
    one.hold([Device("simulated")])
    assert one.cores(EngineSpec("fake", "model")) is None
    one.hold([Device("cpu")])
    assert one.cores(EngineSpec("any", "model")) == (pinning.ranked_cores()[0],)
    one.close()


@pytest.mark.parametrize(("visible", "index", "uuid"), [(None, 1, SECOND), ("1,0", 0, SECOND), ("1,0", 1, FIRST)])
@pytest.mark.usefixtures("gpus")
def test_the_meter_reads_the_board_that_the_engine_runs_on(monkeypatch, visible, index, uuid):
    """Engine and meter count the boards alike, in whatever order CUDA_VISIBLE_DEVICES names them."""
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    metering = open_nvml(window_s=1, lead_in_s=0, index=index)
    assert metering.source.boards == (uuid,) == (machine_of(Device("cuda", index)).fields["gpu_uuid"],)
    assert metering.not_of("cuda:1") == ""
    metering.close()


@pytest.mark.usefixtures("gpus")
def test_replicas_that_have_no_gpu_each_are_told_before_they_are_started():
    """Of a sweep over replicas, those that this machine can't hold are left out, with the reason."""

    def why(replicas, kind="gpus", device="cuda", **options):
        spec = EngineSpec("of another package", "m", options={"device": device, **options}, pool=Pool(replicas, kind))
        return too_few_gpus(spec)

    assert why(2) is None
    assert why(3) == "it needs GPUs 0 to 2, and this run may use 2"
    assert why(2, device="cuda:1") == "it needs GPUs 1 to 2, and this run may use 2"
    assert why(2, tensor_parallel_size=2) == "it needs GPUs 0 to 3, and this run may use 2"
    assert why(8, "processes") is None
    assert why(8, "processes", device="cpu") is None
    assert "MIG" in why(1, "mig")


@pytest.mark.usefixtures("gpus")
def test_replicas_on_gpus_that_are_hidden_are_told_too(monkeypatch):
    """What CUDA_VISIBLE_DEVICES shows is all that there is."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    spec = EngineSpec("of another package", "m", options={"device": "cuda"}, pool=Pool(2, "gpus"))
    assert too_few_gpus(spec) == "it needs GPUs 0 to 1, and this run may use 1"
