"""What a core reads and multiplies: measured for real, kept for the machine, and measured again where that is wrong."""

import json
import os
import shutil
import time

import pytest

from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.machine import Machine
from pytest_slmperf.run.roofs import MIB, SETS, Roofs, sets_for

HERE = Machine("a CPU, 2 cores", "linux-6.1")
TINY = EngineSpec("ctranslate2", "tiny-2x128")
CORE = (max(os.sched_getaffinity(0)),)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A folder with what was measured of one core, and the roof itself."""
    folder = tmp_path_factory.mktemp("roofs")
    roofs = Roofs(HERE, folder=folder)
    roofs.look_up(TINY, CORE)
    return folder, roofs.known["1 core"]


def test_a_core_reads_and_multiplies(kept):
    """By gigabytes and gigaflops in a second, and no slower from its own cache than from a shared one."""
    _, roof = kept
    assert [reading.set_bytes for reading in roof.readings] == [1 * MIB, 16 * MIB]
    assert all(1e8 < reading.bytes_per_s < 1e12 for reading in roof.readings)
    assert 1e8 < roof.flops_of("float32") < 1e13
    assert roof.flops_of("int8") is None
    assert roof.source == "measured"


def test_what_was_measured_is_kept(kept):
    """The next run of this machine takes no time for it."""
    folder, roof = kept
    again = Roofs(HERE, folder=folder)
    began = time.monotonic()
    again.look_up(TINY, CORE)
    assert again.known == {"1 core": roof}
    assert time.monotonic() - began < 0.05


@pytest.mark.parametrize(
    "changes",
    [{"at": 0.0}, {"at": 4e9}, {"readings": []}, {"readings": [[1, 0]]}, {"flops": None}],
    ids=["old", "of the future", "without a reading", "a core that reads nothing", "damaged"],
)
def test_what_is_old_or_damaged_is_measured_again(kept, tmp_path, changes):
    """A file that can't be right is written anew."""
    folder = shutil.copytree(kept[0], tmp_path / "roofs")
    (place,) = folder.iterdir()
    place.write_text(json.dumps({**json.loads(place.read_text()), **changes}))
    roofs = Roofs(HERE, folder=folder)
    roofs.look_up(TINY, CORE)
    assert len(roofs.known["1 core"].readings) == 2
    assert 0 <= time.time() - json.loads(place.read_text())["at"] < 60


def test_another_machine_has_roofs_of_its_own(kept, tmp_path):
    """A folder that two machines share holds both."""
    folder = shutil.copytree(kept[0], tmp_path / "roofs")
    other = Roofs(Machine("another CPU, 2 cores", "linux-6.1"), folder=folder)
    assert other.known == {}
    other.look_up(TINY, CORE)
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize(
    ("machine", "spec", "cores"),
    [
        pytest.param(Machine("simulated", "simulated"), TINY, CORE, id="simulated"),
        pytest.param(HERE, TINY, None, id="not pinned"),
        pytest.param(HERE, EngineSpec("ctranslate2", "a-model-of-ours"), CORE, id="unknown model"),
        pytest.param(HERE, EngineSpec("ctranslate2", "opt-125m", "fp4"), CORE, id="unknown type"),
    ],
)
def test_nothing_is_measured_that_explains_nothing(tmp_path, machine, spec, cores):
    """Without a model of the engine, or cores of its own."""
    roofs = Roofs(machine, folder=tmp_path / "roofs")
    roofs.look_up(spec, cores)
    assert roofs.known == {}
    assert not (tmp_path / "roofs").exists()


def test_a_folder_that_cannot_be_written_is_done_without(tmp_path):
    """The run has its roof, and the next one measures again."""
    (tmp_path / "roofs").write_text("a file where the folder should be")
    roofs = Roofs(HERE, folder=tmp_path / "roofs")
    roofs.look_up(TINY, CORE)
    assert "1 core" in roofs.known


def test_a_core_that_this_process_may_not_use_has_no_roof(tmp_path):
    """Whoever asks for it gets no figures, and no error."""
    roofs = Roofs(HERE, folder=tmp_path)
    roofs.look_up(TINY, (4_000,))
    assert roofs.known == {}


def test_a_gpu_has_its_datasheets():
    """By its driver's name; one of which there is none has no roof."""
    board = Roofs(Machine("NVIDIA L4", "580.65", {"gpu_uuid": "GPU-1"})).known["gpu"]
    assert board.source == "datasheet of L4"
    assert Roofs(Machine("NVIDIA Unheard-of 1", "580.65", {"gpu_uuid": "GPU-1"})).known == {}


def test_cores_read_as_much_as_the_model_needs_and_no_more():
    """A set that holds the weights, all cores together; the largest of all where none does."""
    assert sets_for(2e6, 1) == SETS[:2]
    assert sets_for(2e6, 4) == SETS[:1]
    assert sets_for(1e12, 1) == SETS
    assert sets_for(1e12, 16) == (1 * MIB, 16 * MIB, 64 * MIB)
    assert sets_for(1e12, 2_000)[-1] * 2_000 <= 2**30
