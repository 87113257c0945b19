"""A CPU package whose energy counter moves, as a tree of /sys/class/powercap."""

import threading
import time
from contextlib import contextmanager


@contextmanager
def moving_package(root, every_s):
    """One package under this root; its counter is written so often as long as the body runs."""
    folder = root / "sys/class/powercap/intel-rapl:0"
    folder.mkdir(parents=True)
    for name, content in (("name", "package-0"), ("max_energy_range_uj", "262143328850"), ("energy_uj", "0" * 12)):
        (folder / name).write_text(content)
    ended = threading.Event()

    def move():
        with (folder / "energy_uj").open("r+b", buffering=0) as counter:
            while not ended.wait(every_s):
                counter.seek(0)
                counter.write(f"{time.monotonic_ns() // 100:012d}"[-12:].encode())

    mover = threading.Thread(target=move)
    mover.start()
    try:
        yield
    finally:
        ended.set()
        mover.join()
