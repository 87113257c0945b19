"""What control groups leave of a machine's memory, from trees as kernels of both versions make them."""

import pytest

from pytest_slmperf.pool.control_groups import memory_left_bytes

GIB = 2**30
MACHINE = {"proc/meminfo": f"MemTotal: {32 * 2**20} kB\nMemAvailable:   {16 * 2**20} kB\n"}
VERSION_2 = {
    **MACHINE,
    "proc/self/cgroup": "0::/kubepods/pod7/python\n",
    "sys/fs/cgroup/kubepods/pod7/python/memory.max": "max\n",
    "sys/fs/cgroup/kubepods/pod7/python/memory.current": f"{GIB}\n",
    "sys/fs/cgroup/kubepods/pod7/memory.max": f"{8 * GIB}\n",
    "sys/fs/cgroup/kubepods/pod7/memory.current": f"{5 * GIB}\n",
    "sys/fs/cgroup/kubepods/pod7/memory.stat": f"anon {GIB}\ninactive_file {2 * GIB}\nactive_file {GIB}\n",
}
VERSION_1 = {
    **MACHINE,
    "proc/self/cgroup": "4:memory:/docker/a\n1:cpu,cpuacct:/\n0::/\n",
    "sys/fs/cgroup/memory/docker/a/memory.limit_in_bytes": f"{4 * GIB}\n",
    "sys/fs/cgroup/memory/docker/a/memory.usage_in_bytes": f"{3 * GIB}\n",
    "sys/fs/cgroup/memory/docker/a/memory.stat": f"inactive_file {GIB // 4}\ntotal_inactive_file {GIB}\n",
}


@pytest.mark.parametrize(
    ("files", "left_gib"),
    [
        ({}, None),
        (MACHINE, 16),
        (VERSION_2, 8 - 5 + 2),
        ({**VERSION_2, "sys/fs/cgroup/kubepods/pod7/memory.max": f"{64 * GIB}\n"}, 16),
        ({**VERSION_2, "sys/fs/cgroup/kubepods/pod7/memory.max": f"{GIB}\n"}, 0),
        (VERSION_1, 4 - 3 + 1),
        ({**VERSION_1, "sys/fs/cgroup/memory/docker/a/memory.limit_in_bytes": "9223372036854771712\n"}, 16),
    ],
    ids=["nothing told", "machine", "limit above", "loose limit", "more used than allowed", "version 1", "no limit"],
)
def test_memory_is_what_machine_and_control_groups_both_leave(tmp_path, files, left_gib):
    """In a container the machine's own figure is of no use: who takes more is killed."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    left = memory_left_bytes(root=tmp_path)
    assert left == (left_gib if left_gib is None else left_gib * GIB)
