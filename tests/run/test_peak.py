"""What of an engine's memory is its peak, in a launch's process, and what comes and goes with the page cache."""

import os
import sys

import pytest
from foreign_engine import install

from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.launch import Load, RoundPolicy
from pytest_slmperf.run.launch import run_launch

MIB = 1 << 20
LOAD = Load("decode/mapping/batch=1", ((8, 4),), seed=1)
POLICY = RoundPolicy(rounds=0, round_s=0.001, observed_requests=0)
MAPPED_BYTES = 64 * MIB

MAPPING = """
import mmap, re, time
from pathlib import Path
from pytest_slmperf.core.engine import EngineFacts, Served

class Engine:
    def __init__(self, spec):
        self.options = spec.options
    def start(self):
        with open(self.options["file"], "rb") as file:
            may = mmap.PROT_READ | (mmap.PROT_EXEC if self.options["executed"] else 0)
            self.mapped = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=may)
        for place in range(0, len(self.mapped), self.options["every_bytes"]):
            self.mapped[place]
        status = Path("/proc/self/status").read_text()
        kib = int(re.search(r"RssFile:\\s+(\\d+)", status)[1])
        return EngineFacts("1", "cpu", "float32", "random", 4096, 1024, {"file_mib": kib // 1024})
    def serve(self, batch, *, observe):
        started_ns = time.monotonic_ns()
        self.own = b"x" * (32 << 20)
        return Served(started_ns, time.monotonic_ns(), tuple(request.output_tokens for request in batch))
    def stop(self): pass
"""
"""An engine that maps a file, looks at some of its pages, and takes 32 MiB for a batch."""


@pytest.fixture
def launch(tmp_path, monkeypatch):
    """A launch of an engine that maps the file `mapped`, to execute it or to read it: its peak and its pages of files,
    in MiB."""
    if not sys.platform.startswith("linux"):
        pytest.skip("the kernel's high-water mark is Linux's")
    install(tmp_path, "mapping", MAPPING)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    mapped = tmp_path / "mapped"
    mapped.write_bytes(os.urandom(MIB) * (MAPPED_BYTES // MIB))
    with mapped.open("rb") as file:
        os.fsync(file.fileno())

    def of(*, executed, every_bytes):
        options = {"file": str(mapped), "executed": executed, "every_bytes": every_bytes}
        spec = EngineSpec("mapping", "tiny", options=options)
        record = run_launch(spec, [LOAD], POLICY, arm="candidate", index=0, cores=None, quantiles=())
        return record.cases[LOAD.case].values["peak_memory_bytes"][0] / MIB, record.facts.settings["file_mib"]

    yield of
    mapped.unlink()


def evict(path):
    """Ask the kernel to keep nothing of a file in its page cache."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def test_a_peak_does_not_hang_on_what_of_a_library_is_in_the_page_cache(launch, tmp_path):
    """Where all of it is, the kernel maps more of it around each page that is touched than it reads for that page."""
    cached, pages_of_files = launch(executed=True, every_bytes=MIB // 2)
    evict(tmp_path / "mapped")
    evicted, fewer = launch(executed=True, every_bytes=MIB // 2)
    if pages_of_files - fewer < 4:
        pytest.skip(f"this file system keeps its pages: {pages_of_files} and {fewer} MiB of files were mapped")
    assert cached == pytest.approx(evicted, rel=0.01)


def test_weights_that_an_engine_maps_count(launch):
    """They are no library: what is resident of a file that is only read stays in the peak."""
    as_library, _ = launch(executed=True, every_bytes=4096)
    as_weights, _ = launch(executed=False, every_bytes=4096)
    assert as_weights - as_library == pytest.approx(MAPPED_BYTES / MIB, rel=0.01)
