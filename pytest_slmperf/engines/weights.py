"""Random weights: drawn as the model's family initialises them, made once per shape, kept in the user's cache folder.

The bytes depend on nothing but the shape, the storage type and `VERSION`: not on the machine, its libraries or the
order in which tensors are drawn. Weights of a user's own are named by their content. Runs in the interpreter of any
environment that has an engine, so it imports nothing that an engine doesn't bring.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from statistics import NormalDist
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from pytest_slmperf.core.errors import EngineUnavailable
from pytest_slmperf.core.shapes import SHAPES, Family, Role, Shape, Tensor, parameters
from pytest_slmperf.engines.cache import CACHE_VARIABLE, cache_folder

VERSION = 1
"""Goes up whenever the same shape would get other bytes."""

STANDARD_DEVIATION = 0.02
"""`init_std` of OPT, `initializer_range` of Llama, Qwen and Gemma."""
SEED = 2404_03353
FLOAT32_LIMIT = 1_000_000_000
"""Parameters up to which weights are stored as float32; larger models are stored as float16, half the disk and load."""
HEADROOM_BYTES = 64 * 2**20
"""Disk space left free beside the weights, for the vocabulary and everybody else."""
DRAWN_AT_ONCE = 2**20
"""Elements; a multiple of 4, as each draw of 64 bits makes four. Keeps the memory beside the tensor itself small."""
READ_AT_ONCE = 2**22
"""Bytes of a file that are hashed at a time."""
MANIFEST = "manifest.json"

Weights = NDArray[np.floating[Any]]

Writer = Callable[[Path], None]
"""Writes a model's files into the folder that it is given."""


def storage_dtype(shape: Shape) -> str:
    """The type that weights are stored in; an engine converts them to its compute type when it loads them."""
    return "float32" if parameters(shape) <= FLOAT32_LIMIT else "float16"


@cache
def _normal_table(dtype: str) -> Weights:
    """The normal distribution as 65,536 equally likely values.

    A table instead of a generator's normal(): numpy promises that the raw bits of its bit generators stay the same over
    versions and machines, and promises nothing of the distributions made from them.
    """
    quantile = NormalDist(0, STANDARD_DEVIATION).inv_cdf
    upper = [quantile((index + 0.5) / 2**16) for index in range(2**15, 2**16)]
    return np.array([-value for value in reversed(upper)] + upper, dtype=dtype)


def draw(shape: Shape, tensor: Tensor, dtype: str) -> Weights:
    """The values of one tensor: matrices normal with a deviation of 0.02, norms neutral, biases zero.

    `dtype` is `float32` or `float16`. A norm's neutral weight is 1, and 0 for Gemma, which adds 1 to what it stores.
    """
    match tensor.role:
        case Role.BIAS:
            return np.zeros(tensor.dimensions, dtype)
        case Role.NORM:
            gemma = shape.family in {Family.GEMMA2, Family.GEMMA3}
            return np.full(tensor.dimensions, 0.0 if gemma else 1.0, dtype)
        case Role.EMBEDDING | Role.MATRIX | Role.POSITIONS:
            bits = np.random.PCG64(np.random.SeedSequence((SEED, VERSION, crc32(tensor.name.encode()))))
            table = _normal_table(dtype)
            drawn = np.empty(tensor.size, dtype)
            for start in range(0, tensor.size, DRAWN_AT_ONCE):
                part = drawn[start : start + DRAWN_AT_ONCE]
                raw = bits.random_raw(-(-part.size // 4)).astype("<u8", copy=False).view("<u2")
                part[:] = table[raw[: part.size]]
            return drawn.reshape(tensor.dimensions)


def is_path(model: str) -> bool:
    """Whether a model is a folder of the user's own, and not a name of the table of shapes."""
    return model not in SHAPES and (os.sep in model or Path(model).expanduser().is_dir())


def content_name(files: Iterable[Path], *, cache: Path | None = None) -> str:
    """What a baseline calls the weights of a model that is given by path: `sha256:` and the start of a digest.

    It covers the files' names and contents, not their folder. Reading them takes seconds for each gigabyte, so the
    digest is kept in the cache until a file's size or times change, and only a throw-away start pays for it. Raises
    EngineUnavailable for a file that cannot be read.
    """
    paths = sorted(Path(os.path.realpath(path.parent), path.name) for path in files)
    try:
        states = {str(path): _state(path) for path in paths}
        kept = (cache or cache_folder()) / "digests" / f"{_digest([json.dumps(sorted(states)).encode()])[:32]}.json"
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            known = json.loads(kept.read_text())
            if known["states"] == states:
                return str(known["name"])
        name = f"sha256:{_digest(_contents(paths))[:16]}"
    except OSError as error:
        raise EngineUnavailable(f"the model's {error.filename} cannot be read: {error.strerror or error}") from error
    with contextlib.suppress(OSError):  # without a cache, each start reads the files
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps({"states": states, "name": name}, indent=2))
    return name


def _state(path: Path) -> list[int]:
    """What changes whenever a file's content does; a copy that keeps the times of its original has a new ctime."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _contents(paths: Iterable[Path]) -> Iterator[bytes]:
    """Each file's name, size and content, in parts."""
    for path in paths:
        yield f"{path.name}\0{path.stat().st_size}\0".encode()
        with path.open("rb") as content:
            while part := content.read(READ_AT_ONCE):
                yield part


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def kept_model(name: str, *, bytes_needed: int, write: Writer, cache: Path | None = None) -> Path:
    """The folder of a model, which `write` makes where it isn't there yet or is damaged. Blocks, also on another maker.

    The folder appears as a whole or not at all, and holds a manifest of its files' sizes. Raises EngineUnavailable if
    the disk has fewer than `bytes_needed` bytes (and some headroom), or the folder cannot be written.
    """
    models = (cache or cache_folder()) / "models"
    folder = models / f"{name}-v{VERSION}"
    if _is_whole(folder):
        return folder
    try:
        models.mkdir(parents=True, exist_ok=True)
        with (models / f"{folder.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel gives it back, however its holder ends
            if not _is_whole(folder):
                _make(folder, bytes_needed, write)
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise EngineUnavailable(
                f"the disk is full: the weights of {name} need {_gib(bytes_needed)} in {models}. "
                f"Make room, or choose another folder with {CACHE_VARIABLE}"
            ) from error
        raise EngineUnavailable(
            f"cannot write the weights of {name} to {models}: {error}. Choose another folder with {CACHE_VARIABLE}"
        ) from error
    return folder


def _make(folder: Path, bytes_needed: int, write: Writer) -> None:
    free = shutil.disk_usage(folder.parent).free
    if free < bytes_needed + HEADROOM_BYTES:
        raise EngineUnavailable(
            f"the weights of {folder.name} need {_gib(bytes_needed)}, and {folder.parent} has {_gib(free)} left. "
            f"Make room, or choose another folder with {CACHE_VARIABLE}"
        )
    for rubbish in folder.parent.glob(f".{folder.name}.*"):  # whoever made it was killed: we hold the lock
        shutil.rmtree(rubbish, ignore_errors=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        write(unfinished)
        sizes = {path.name: path.stat().st_size for path in unfinished.iterdir()}
        (unfinished / MANIFEST).write_text(json.dumps({"version": VERSION, "bytes": sizes}, indent=2, sort_keys=True))
        if folder.exists():
            shutil.rmtree(folder)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _is_whole(folder: Path) -> bool:
    """Whether the files are there with the sizes they were written with."""
    try:
        sizes = json.loads((folder / MANIFEST).read_text())["bytes"]
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
