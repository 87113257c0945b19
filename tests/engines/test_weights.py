"""Random weights are the same everywhere, whole or absent, and made once."""

import errno
import hashlib
import json
import multiprocessing
import os
import re
import statistics
import time
from pathlib import Path

import pytest

from pytest_slmperf.core.errors import EngineUnavailable
from pytest_slmperf.core.shapes import SHAPES, Role, Tensor, tensors
from pytest_slmperf.engines import weights
from pytest_slmperf.engines.cache import cache_folder
from pytest_slmperf.engines.ctranslate2 import random_model
from pytest_slmperf.engines.weights import content_name, draw, kept_model, storage_dtype

OPT, GEMMA = SHAPES["tiny-2x64"], SHAPES["gemma-3-270m"]


def tensor(shape, name):
    return next(tensor for tensor in tensors(shape) if tensor.name == name)


def digest(array):
    return hashlib.sha256(array.tobytes()).hexdigest()[:16]


@pytest.mark.parametrize(("dtype", "pinned"), [("float32", "0e7d2621ce8f3775"), ("float16", "f99f84146f7f4e01")])
def test_weights_are_the_same_bytes_on_every_machine(dtype, pinned):
    """The bytes of one tensor are pinned here: they may change only together with weights.VERSION."""
    assert digest(draw(OPT, tensor(OPT, "layers.1.ffn.up.weight"), dtype)) == pinned


def test_matrices_are_drawn_as_their_family_initialises_them():
    """Matrices are normal with a deviation of 0.02; about 4.6 % lie beyond two deviations."""
    values = draw(OPT, tensor(OPT, "embeddings"), "float32").ravel().tolist()
    assert statistics.fmean(values) == pytest.approx(0, abs=0.0005)
    assert statistics.pstdev(values) == pytest.approx(0.02, rel=0.01)
    assert sum(abs(value) > 0.04 for value in values) / len(values) == pytest.approx(0.0455, rel=0.1)


def test_tensors_of_one_shape_are_unlike():
    """Each tensor has a stream of its own: layers are no copies of each other."""
    first, second = (draw(OPT, tensor(OPT, f"layers.{layer}.ffn.up.weight"), "float32") for layer in (0, 1))
    assert (first != second).mean() > 0.99


def test_norms_are_neutral_and_biases_zero():
    """A norm's weight is 1, or 0 in Gemma, which adds 1 itself."""
    assert set(draw(OPT, tensor(OPT, "norm.weight"), "float32").tolist()) == {1.0}
    assert set(draw(GEMMA, tensor(GEMMA, "norm.weight"), "float32").tolist()) == {0.0}
    assert set(draw(OPT, tensor(OPT, "norm.bias"), "float16").tolist()) == {0.0}


def test_a_large_tensor_is_drawn_in_parts_as_if_at_once():
    """Drawing in parts keeps memory small and changes nothing: a tensor's start doesn't depend on its size."""
    small, large = (draw(OPT, Tensor("x", (rows, 1_024), Role.MATRIX), "float16") for rows in (1_100, 2_200))
    assert (small == large[:1_100]).all()


def test_models_above_a_billion_parameters_are_stored_in_16_bits():
    """Small models are stored as float32, large ones in half of that."""
    assert storage_dtype(SHAPES["opt-350m"]) == "float32"
    assert storage_dtype(SHAPES["opt-1.3b"]) == "float16"


def test_the_cache_folder_is_the_users_unless_a_variable_names_another(tmp_path):
    """SLMPERF_CACHE moves the cache; without it, it is where XDG_CACHE_HOME or the system keeps caches."""
    assert cache_folder({"SLMPERF_CACHE": str(tmp_path), "XDG_CACHE_HOME": "/elsewhere"}) == tmp_path
    assert cache_folder({"XDG_CACHE_HOME": str(tmp_path)}) == tmp_path / "slmperf"
    assert cache_folder({"XDG_CACHE_HOME": "relative"}) == cache_folder({}) == Path.home() / ".cache" / "slmperf"


def write_two_files(folder):
    (folder / "model.bin").write_bytes(b"x" * 1_000)
    (folder / "config.json").write_text("{}")


def kept(cache, write=write_two_files, size=1_000):
    return kept_model("m", bytes_needed=size, write=write, cache=cache)


def never(folder):
    raise AssertionError(f"{folder} was made again")


def test_a_model_is_made_once(tmp_path):
    """A whole folder is used as it is."""
    folder = kept(tmp_path)
    assert kept(tmp_path, write=never) == folder
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "manifest.json", "model.bin"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "model.bin").write_bytes(b"x" * 999),
        lambda folder: (folder / "model.bin").unlink(),
        lambda folder: (folder / "manifest.json").unlink(),
        lambda folder: (folder / "manifest.json").write_text("{"),
        lambda folder: (folder / "manifest.json").write_text("[]"),
    ],
)
def test_a_damaged_model_is_made_again(tmp_path, damage):
    """What is cut off, or without a manifest, is replaced as a whole."""
    folder = kept(tmp_path)
    damage(folder)
    assert kept(tmp_path) == folder
    assert (folder / "model.bin").stat().st_size == 1_000
    assert json.loads((folder / "manifest.json").read_text())["bytes"] == {"model.bin": 1_000, "config.json": 2}


def test_a_maker_that_fails_leaves_nothing(tmp_path):
    """After a failure there is neither a folder nor a part of one, and the next try succeeds."""

    def fail(folder):
        (folder / "model.bin").write_bytes(b"x")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept(tmp_path, write=fail)
    assert [path.name for path in (tmp_path / "models").iterdir() if path.is_dir()] == []
    kept(tmp_path)


def test_what_a_killed_maker_left_is_cleared_away(tmp_path):
    """An unfinished folder of a process that was killed doesn't fill the disk for ever."""
    rubbish = tmp_path / "models" / f".m-v{weights.VERSION}.abc"
    rubbish.mkdir(parents=True)
    kept(tmp_path)
    assert not rubbish.exists()


def test_too_little_room_is_known_before_anything_is_written(tmp_path):
    """Weights that the disk cannot hold are refused, with their size and the way out."""
    with pytest.raises(EngineUnavailable, match=r"need 953674.32 GiB, and .* left.*SLMPERF_CACHE"):
        kept(tmp_path, write=never, size=1_024_000_000_000_000)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up_meanwhile_is_said_so_and_cleared(tmp_path, number):
    """A full disk, or a used-up quota, is a clear error that leaves no rubbish."""

    def fill(folder):
        (folder / "model.bin").write_bytes(b"x")
        raise OSError(number, os.strerror(number))

    with pytest.raises(EngineUnavailable, match=r"the disk is full.*SLMPERF_CACHE"):
        kept(tmp_path, write=fill)
    assert [path for path in (tmp_path / "models").iterdir() if path.is_dir()] == []


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    """A cache folder that is a file is an error that names it, not a traceback."""
    (tmp_path / "models").write_text("")
    with pytest.raises(EngineUnavailable, match=r"cannot write the weights of m to .*models.*SLMPERF_CACHE"):
        kept(tmp_path)


def make_slowly(cache):
    def write(folder):
        with (cache / "makers").open("a") as makers:
            makers.write("one\n")
        time.sleep(0.3)
        write_two_files(folder)

    kept_model("m", bytes_needed=1_000, write=write, cache=cache)


def test_of_several_processes_one_makes_the_model(tmp_path):
    """Processes that need the same model at once wait for the one that makes it."""
    context = multiprocessing.get_context("spawn")
    makers = [context.Process(target=make_slowly, args=(tmp_path,)) for _ in range(3)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    assert [maker.exitcode for maker in makers] == [0, 0, 0]
    assert (tmp_path / "makers").read_text() == "one\n"


def test_a_models_file_is_the_same_bytes_each_time(tmp_path):
    """Two caches hold the same bytes, in a file as large as the model's tensors and little more."""
    files = [(random_model(OPT, cache=tmp_path / name) / "model.bin").read_bytes() for name in ("a", "b")]
    assert files[0] == files[1]
    unused = 2 * OPT.hidden
    elements = sum(tensor.size for tensor in tensors(OPT)) - unused
    assert 4 * elements < len(files[0]) < 4 * elements + 10_000


# -- weights of a user's own


def own_model(folder, content=b"x" * 1_000):
    folder.mkdir(parents=True)
    write_two_files(folder)
    (folder / "model.bin").write_bytes(content)
    return [folder / "model.bin", folder / "config.json"]


def test_weights_are_named_by_their_content_and_not_by_their_folder(tmp_path):
    """Two folders of the same last name have one name where they hold the same files, and two where they don't."""
    one, copy, other = (
        content_name(own_model(tmp_path / place / "opt", content), cache=tmp_path / "cache")
        for place, content in (("a", b"x"), ("b", b"x"), ("c", b"y"))
    )
    assert one == copy
    assert one != other
    assert re.fullmatch("sha256:[0-9a-f]{16}", one)


def test_the_order_of_the_files_does_not_matter(tmp_path):
    """An engine may list a model's files as it finds them."""
    files = own_model(tmp_path / "opt")
    assert content_name(files, cache=tmp_path) == content_name(files[::-1], cache=tmp_path)


def test_a_file_is_read_once_and_again_when_it_has_changed(tmp_path):
    """A timed start finds the digest that a throw-away one left, until the content changes, even with its old time."""
    files = own_model(tmp_path / "opt")
    first = content_name(files, cache=tmp_path)
    (kept,) = (tmp_path / "digests").iterdir()
    kept.write_text(kept.read_text().replace(first, "sha256:kept"))
    assert content_name(files, cache=tmp_path) == "sha256:kept"
    before = files[0].stat()
    files[0].write_bytes(b"y" * 1_000)
    os.utime(files[0], ns=(before.st_atime_ns, before.st_mtime_ns))
    assert content_name(files, cache=tmp_path) not in {first, "sha256:kept"}


@pytest.mark.parametrize("damage", ["", "{", "[]", "{}"])
def test_a_damaged_digest_is_made_again(tmp_path, damage):
    """What is kept is a saving, never a reason to fail."""
    files = own_model(tmp_path / "opt")
    name = content_name(files, cache=tmp_path)
    (kept,) = (tmp_path / "digests").iterdir()
    kept.write_text(damage)
    assert content_name(files, cache=tmp_path) == name


def test_without_a_cache_the_files_are_read_each_time(tmp_path):
    """A cache folder that cannot be written costs time, and nothing else."""
    files = own_model(tmp_path / "opt")
    (tmp_path / "no-folder").write_text("")
    assert content_name(files, cache=tmp_path / "no-folder") == content_name(files, cache=tmp_path / "cache")


def test_a_model_file_that_cannot_be_read_is_named(tmp_path):
    """A file that went away is an error that names it."""
    with pytest.raises(EngineUnavailable, match=r"model's .*gone\.bin cannot be read: No such file"):
        content_name([tmp_path / "gone.bin"], cache=tmp_path)
