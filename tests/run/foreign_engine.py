"""An engine of another package, installed into a folder for one test."""


def install(folder, name, source):
    """Register the class `Engine` of this source under a name, as if a package with an entry point were installed."""
    metadata = folder / f"{name}-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(f"[slmperf.engines]\n{name} = {name}_engine:Engine\n")
    (folder / f"{name}_engine.py").write_text(source)
