"""The memory of processes: of one that an engine has started, and of all that this one has started in turn."""

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

_FORGET_PEAK = "5"
_MAPPING = re.compile(r"[0-9a-f]+-[0-9a-f]+ (?P<may>\S+) \S+ \S+ \d+ *(?P<file>.*)")
_NO_FILE = ("/memfd:", "/dev/")
"""Begins of what looks like a path in a list of mappings, and is memory of the process, or a device's."""
_GPU = re.compile(r"/dev/(nvidia\d+|kfd)$")
_MARK = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)


def tree(process: int, *, proc: Path = Path("/proc")) -> Iterator[int]:
    """The process and its descendants, as far as they can be seen now."""
    yield process
    with suppress(OSError):  # it has ended meanwhile
        for thread in (proc / str(process) / "task").iterdir():
            for child in (thread / "children").read_text().split():
                yield from tree(int(child), proc=proc)


def on_gpu(processes: Iterable[int], *, proc: Path = Path("/proc")) -> bool:
    """Whether one of them has a GPU open, as far as that can be seen: NVIDIA's or AMD's driver."""
    for one in processes:
        with suppress(OSError):  # it has ended, or is another user's
            for descriptor in (proc / str(one) / "fd").iterdir():
                with suppress(OSError):
                    if _GPU.match(str(descriptor.readlink())):
                        return True
    return False


def forget_peaks(processes: Iterable[int]) -> str | None:
    """Reset the kernel's high-water marks. Returns why that can't be done, or None."""
    for one in processes:
        try:
            Path(f"/proc/{one}/clear_refs").write_text(_FORGET_PEAK)
        except FileNotFoundError:
            continue  # it has ended meanwhile
        except OSError as error:
            return f"the kernel does not reset the high-water mark of process {one} ({error})"
    return None


def peak_bytes(processes: Iterable[int]) -> int:
    """The high-water marks (VmHWM), added up: pages that processes share count for each. A tenth of a millisecond each.

    A process that has ended counts for nothing.
    """
    kib = 0
    for one in processes:
        with suppress(OSError):
            mark = _MARK.search(Path(f"/proc/{one}/status").read_text())
            kib += int(mark[1]) if mark else 0
    return kib * 1024


def library_bytes_of(processes: Iterable[int]) -> int:
    """Bytes resident of libraries, as `library_bytes` counts them, added up. Tens of milliseconds for each."""
    found = 0
    for one in processes:
        with suppress(OSError), Path(f"/proc/{one}/smaps").open(errors="replace") as mappings:
            found += library_bytes(mappings)
    return found


def library_bytes(smaps: Iterable[str]) -> int:
    """Bytes resident of files that are mapped for execution, but for the pages that the process made its own.

    Of such a file all mappings count, its constants as well as its code; of no other file any: weights that an engine
    maps are no library.
    """
    shared: dict[str, int] = {}
    executed: set[str] = set()
    file = ""
    for line in smaps:
        mapping = _MAPPING.match(line)
        if mapping:
            file = mapping["file"]
            if "x" in mapping["may"]:
                executed.add(file)
            continue
        name, _, size = line.partition(":")
        if name in {"Rss", "Anonymous"}:
            kib = int(size.split()[0])
            shared[file] = shared.get(file, 0) + (kib if name == "Rss" else -kib)
    files = {file for file in executed if file.startswith("/") and not file.startswith(_NO_FILE)}
    return sum(shared.get(file, 0) for file in files) * 1024
