"""An engine of another package, installed into a folder for one test."""

SPINNING = """
import time
from pytest_slmperf.core.engine import EngineFacts, Served

class Engine:
    def __init__(self, spec): pass
    def start(self): return EngineFacts("1", "cpu", "float32", "random", 4096, 1024)
    def serve(self, batch, *, observe):
        started = time.monotonic_ns()
        while time.monotonic_ns() < started + 5_000_000: pass
        ended = time.monotonic_ns()
        asked = tuple(request.output_tokens for request in batch)
        return Served(started, ended, asked, tuple((ended,) * n for n in asked) if observe else None)
    def stop(self): pass
"""
"""An engine that does nothing, but as hard as it can."""


def install(folder, name, source):
    """Register the class `Engine` of this source under a name, as if a package with an entry point were installed."""
    metadata = folder / f"{name}-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(f"[slmperf.engines]\n{name} = {name}_engine:Engine\n")
    (folder / f"{name}_engine.py").write_text(source)
