"""Fingerprints, from trees as they were found on machines of different kinds."""

import json
import subprocess
from dataclasses import replace

import pytest

from pytest_slmperf.core.machine import Role
from pytest_slmperf.meters.boards import Board
from pytest_slmperf.run import fingerprint

XEON = """\
processor	: {number}
vendor_id	: GenuineIntel
cpu family	: 6
model		: 143
model name	: Intel(R) Xeon(R) Processor
stepping	: 8
microcode	: 0x1
physical id	: 0
flags		: fpu avx512f hypervisor amx_int8

"""
VIRTUAL_XEON = {
    "proc/cpuinfo": XEON.format(number=0) + XEON.format(number=1),
    "proc/meminfo": "MemTotal:       24684084 kB\nMemFree:        24499344 kB\n",
    "proc/self/status": "Name:\tpython\nCpus_allowed:\t3\nCpus_allowed_list:\t0-1\n",
    "proc/self/cgroup": "4:memory:/a/b\n1:cpu,cpuacct:/\n0::/\n",
    "proc/sys/kernel/osrelease": "6.18.44-fc\n",
    "sys/devices/system/cpu/smt/active": "0\n",
    "sys/devices/system/cpu/cpu0/cache/index0/level": "1\n",
    "sys/devices/system/cpu/cpu0/cache/index0/type": "Data\n",
    "sys/devices/system/cpu/cpu0/cache/index0/size": "48K\n",
    "sys/devices/system/cpu/cpu0/cache/index2/level": "2\n",
    "sys/devices/system/cpu/cpu0/cache/index2/type": "Unified\n",
    "sys/devices/system/cpu/cpu0/cache/index2/size": "2048K\n",
    "sys/devices/system/cpu/cpu0/cache/index3/level": "3\n",
    "sys/devices/system/cpu/cpu0/cache/index3/type": "Unified\n",
    "sys/devices/system/cpu/cpu0/cache/index3/size": "320M\n",
    "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
    "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
    "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
    ".dockerenv": "",
}
EPYC = "".join(
    f"processor\t: {number}\nmodel name\t: AMD EPYC 7763 64-Core Processor\nphysical id\t: {number // 64}\n"
    "cpu family\t: 25\nmodel\t\t: 1\nstepping\t: 1\nmicrocode\t: 0xa0011d1\nflags\t\t: fpu avx2\n\n"
    for number in range(128)
)
BARE_EPYC = {
    "proc/cpuinfo": EPYC,
    "proc/meminfo": "MemTotal:       528280976 kB\n",
    "proc/self/status": "Cpus_allowed_list:\t0-7,64-71\n",
    "proc/self/cgroup": "0::/kubepods.slice/pod7/python\n",
    "proc/sys/kernel/osrelease": "5.15.0-91-generic\n",
    "sys/devices/system/cpu/smt/active": "1\n",
    "sys/devices/system/cpu/cpufreq/boost": "0\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance\n",
    "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor": "schedutil\n",
    "sys/fs/cgroup/kubepods.slice/pod7/cpu.max": "250000 100000\n",
    "sys/fs/cgroup/kubepods.slice/pod7/python/cpu.max": "max 100000\n",
    "sys/fs/cgroup/kubepods.slice/pod7/memory.max": "8589934592\n",
}
NEOVERSE = {
    "proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n\n"
    "Hardware\t: something\n",
    "proc/self/status": "Cpus_allowed_list:\t0\n",
    "proc/sys/kernel/osrelease": "6.1.0\n",
    "sys/class/dmi/id/sys_vendor": "Amazon EC2\n",
}


@pytest.fixture
def tree(tmp_path):
    def grow(files):
        for path, text in files.items():
            place = tmp_path / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)
        return tmp_path

    return grow


def test_a_virtual_xeon(tree):
    """A guest whose CPU has no number is told apart by family, model and stepping."""
    machine = fingerprint.probe(tree(VIRTUAL_XEON))
    assert (machine.device, machine.driver) == ("Intel Xeon Processor 6-143-8, 2 cores", "linux-6.18")
    assert machine.fields == {
        "cores": 2,
        "smt": False,
        "virtualisation": "virtual",
        "container": "docker",
        "sockets": 1,
        "l2_kib": 2048,
        "l3_kib": 320 * 1024,
        "memory_gib": 23.5,
        "microcode": "0x1",
        "kernel": "6.18.44-fc",
        "huge_pages": "madvise",
    }


def test_a_bare_server_in_a_pod(tree):
    """The tightest of affinity and control groups, own or inherited, counts as the cores and the memory."""
    machine = fingerprint.probe(tree(BARE_EPYC))
    assert (machine.device, machine.driver) == ("AMD EPYC 7763 64-Core Processor, 2.5 cores", "linux-5.15")
    assert machine.fields == {
        "cores": 2.5,
        "smt": True,
        "virtualisation": "none",
        "container": "kubernetes",
        "sockets": 2,
        "memory_gib": 8.0,
        "governor": "performance,schedutil",
        "turbo": False,
        "microcode": "0xa0011d1",
        "kernel": "5.15.0-91-generic",
    }


def test_an_arm_core(tree):
    """Where the kernel names no model, the core's part number does; what can't be known is left out."""
    machine = fingerprint.probe(tree(NEOVERSE))
    assert (machine.device, machine.driver) == ("ARM Neoverse-N1, 1 core", "linux-6.1")
    assert machine.fields == {"cores": 1, "hypervisor": "kvm", "kernel": "6.1.0"}


@pytest.mark.parametrize(
    ("name", "device"),
    [
        ("Intel(R) Xeon(R) CPU @ 2.20GHz", "Intel Xeon CPU @ 2.20GHz 6-143-8, 2 cores"),
        ("Intel(R) Xeon(R) Platinum 8370C CPU @ 2.80GHz", "Intel Xeon Platinum 8370C CPU @ 2.80GHz, 2 cores"),
        ("AMD EPYC-Rome Processor", "AMD EPYC-Rome Processor 6-143-8, 2 cores"),
        ("QEMU Virtual CPU version 2.5+", "QEMU Virtual CPU version 2.5+ 6-143-8, 2 cores"),
        ("13th Gen Intel(R) Core(TM) i7-1365U", "13th Gen Intel Core i7-1365U, 2 cores"),
    ],
)
def test_generic_names_get_numbers(tree, name, device):
    """A name without a model number, which many generations share, is followed by the numbers that differ."""
    cpus = VIRTUAL_XEON["proc/cpuinfo"].replace("Intel(R) Xeon(R) Processor", name)
    assert fingerprint.probe(tree({**VIRTUAL_XEON, "proc/cpuinfo": cpus})).device == device


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"proc/self/status": "Cpus_allowed_list:\t1\n"}, 1),
        ({"proc/self/status": "Name:\tpython\n"}, 2),
        (
            {
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "150000",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
            },
            2,
        ),
        ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "150000"}, 1.5),
        ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "400000"}, 2),
        ({"sys/fs/cgroup/cpu.max": "100000 100000\n"}, 1),
        ({"sys/fs/cgroup/cpu.max": "rubbish"}, 2),
        ({"proc/self/cgroup": ""}, 2),
    ],
)
def test_usable_cores(tree, files, cores):
    """The cores are those that affinity and quotas leave, whole or in parts; what can't be read limits nothing."""
    assert fingerprint.probe(tree({**VIRTUAL_XEON, **files})).fields["cores"] == cores


def test_memory_is_what_the_container_may_use(tree):
    """A limit of the control group counts where it is below the machine's memory."""
    files = {**VIRTUAL_XEON, "sys/fs/cgroup/memory/a/b/memory.limit_in_bytes": str(4 * 2**30)}
    assert fingerprint.probe(tree(files)).fields["memory_gib"] == 4.0


@pytest.mark.parametrize(
    ("vendor", "kind"), [("QEMU", "kvm"), ("VMware, Inc.", "vmware"), ("Microsoft Corporation", "hyper-v")]
)
def test_a_hypervisor_is_named_where_the_firmware_tells(tree, vendor, kind):
    """What the firmware says is worth a note; whether there is a hypervisor at all must match."""
    machine = fingerprint.probe(tree({**VIRTUAL_XEON, "sys/class/dmi/id/sys_vendor": f"{vendor}\n"}))
    assert machine.fields["hypervisor"] == kind
    assert set(machine.differences(fingerprint.probe(tree(BARE_EPYC)), Role.PART_OF_DEVICE)) == {
        "cores",
        "smt",
        "virtualisation",
    }


def test_an_empty_tree_is_still_a_machine(tmp_path):
    """Without /proc and /sys, what Python knows is left: never an error, never a made-up zero."""
    machine = fingerprint.probe(tmp_path)
    assert machine.device
    assert machine.driver.startswith("linux-")
    assert set(machine.fields) == {"kernel"}


def test_this_machine():
    """The machine under the tests has a name, cores and a kernel, is the same twice, and fits into JSON."""
    machine = fingerprint.probe()
    assert machine.fields["cores"] > 0
    assert machine.driver.startswith("linux-")
    assert not machine.differences(fingerprint.probe(), *Role)
    assert json.loads(json.dumps(machine.flat())) == machine.flat()


def test_no_name_of_a_host_or_user_is_kept(tree):
    """A baseline is committed; machines and accounts are called after people."""
    files = {"proc/sys/kernel/hostname": "janes-laptop\n", "etc/hostname": "janes-laptop\n", **VIRTUAL_XEON}
    assert "jane" not in json.dumps(fingerprint.probe(tree(files)).flat())


def test_the_simulated_machine_is_the_same_everywhere():
    """The fake engine has one machine, which is no real one."""
    assert fingerprint.simulated().simulated
    assert not fingerprint.probe().simulated
    assert fingerprint.simulated() == fingerprint.simulated()


def git(folder, *words):
    identity = ("-c", "user.email=jane@example.org", "-c", "user.name=Jane Doe")
    done = subprocess.run(
        ["/usr/bin/env", "git", "-C", folder, *identity, *words], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_commit(tmp_path):
    """The commit is named in full, and marked where tracked files were changed; outside of git there is none."""
    assert fingerprint.commit(tmp_path) is None
    git(tmp_path, "init", "-q")
    assert fingerprint.commit(tmp_path) is None
    (tmp_path / "suite.py").write_text("a")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "start")
    git(tmp_path, "tag", "-a", "v1", "-m", "v1")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert fingerprint.commit(tmp_path) == head
    (tmp_path / "untracked").write_text("b")
    assert fingerprint.commit(tmp_path) == head
    (tmp_path / "suite.py").write_text("c")
    assert fingerprint.commit(tmp_path) == f"{head}-dirty"


def test_the_author_is_who_git_knows(tmp_path):
    """A recording carries the name that a commit would carry."""
    git(tmp_path, "init", "-q")
    git(tmp_path, "config", "user.name", "Jane Doe")
    assert fingerprint.by(tmp_path) == "Jane Doe"
    assert fingerprint.by(tmp_path / "absent") == ""


def test_a_gpus_machine_has_its_name_and_driver_and_what_its_host_is(tree):
    """The host's fields go along, and its model as `cpu`."""
    host = fingerprint.probe(tree(NEOVERSE))
    board = Board("NVIDIA GH200", "GPU-1", "580.65.06", simulated=False, fields={"gpu_uuid": "GPU-1", "ecc": True})
    machine = fingerprint.with_boards(host, [board])
    assert (machine.device, machine.driver, machine.kind) == ("NVIDIA GH200", "580.65.06", "cuda")
    assert machine.fields == {**host.fields, "cpu": "ARM Neoverse-N1, 1 core", "gpu_uuid": "GPU-1", "ecc": True}
    assert not machine.simulated


def test_several_gpus_are_one_machine_that_lists_what_differs(tree):
    """It is called by their number, and by each model where they are unlike."""
    one = Board("NVIDIA H100", "GPU-1", "580", simulated=False, fields={"gpu_uuid": "GPU-1", "power_limit_w": 700.0})
    other = replace(one, uuid="GPU-2", fields={"gpu_uuid": "GPU-2", "power_limit_w": 700.0, "ecc": True})
    machine = fingerprint.with_boards(fingerprint.probe(tree(NEOVERSE)), [one, other])
    assert (machine.device, machine.driver, machine.kind) == ("2 x NVIDIA H100", "580", "cuda")
    told = {name: machine.fields[name] for name in ("gpu_uuid", "power_limit_w", "ecc")}
    assert told == {"gpu_uuid": "GPU-1, GPU-2", "power_limit_w": 700.0, "ecc": "absent, true"}
    unlike = [replace(board, name=name, simulated=True) for board, name in ((one, "A"), (other, "B"), (one, "A"))]
    assert fingerprint.with_boards(machine, unlike).device == "simulated 2 x A and B"


def test_a_gpu_that_a_stand_in_tells_of_is_simulated(tree):
    """By its name, so that it is seen wherever the name is, and compared with no real one."""
    board = Board("NVIDIA H100", "GPU-1", "580.65.06", simulated=True, fields={"gpu_uuid": "GPU-1"})
    machine = fingerprint.with_boards(fingerprint.probe(tree(NEOVERSE)), [board])
    assert (machine.device, machine.simulated, machine.kind) == ("simulated NVIDIA H100", True, "cuda")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("VLLM_ATTENTION_BACKEND", "FLASHINFER"),
        ("CUDA_LAUNCH_BLOCKING", "1"),
        ("TORCHINDUCTOR_MAX_AUTOTUNE", "1"),
        ("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True,max_split_size_mb:128"),
        ("CT2_USE_MKL", "0"),
        ("OMP_PROC_BIND", "true"),
        ("TORCH_CUDA_ARCH_LIST", "7.0;8.0;9.0+PTX"),
        ("VLLM_ATTENTION_BACKEND", "TRITON_ATTN_VLLM_V1"),
        ("NCCL_IB_HCA", "mlx5_0,mlx5_1,mlx5_2,mlx5_3"),
    ],
)
def test_variables_that_engines_read_are_kept(tree, name, value):
    """Their value is a field of the machine, so that another one is another machine."""
    machine = fingerprint.with_variables(fingerprint.probe(tree(NEOVERSE)), {name: value})
    assert machine.fields[f"env.{name}"] == value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("VLLM_API_KEY", "sk-1"),
        ("VLLM_HF_TOKEN", "hf_1"),
        ("CUDA_SECRET", "1"),
        ("TORCH_PASSWORD", "1"),
        ("vllm_api_key", "sk-1"),
        ("VLLM_HOST_IP", "10.0.0.7"),
        ("VLLM_PORT", "8000"),
        ("NCCL_COMM_ID", "10.1.2.3:5000"),
        ("NCCL_SOCKET", "10.1.2.3"),
        ("VLLM_DP_MASTER_ADDR", "node7"),
        ("VLLM_ENDPOINT", "node7.corp:8000"),
        ("TORCHELASTIC_RUN_ID", "41f2"),
        ("CUDA_HOME", "/home/jane/cuda"),
        ("VLLM_CACHE_ROOT", "~/.cache"),
        ("VLLM_SERVER", "http://jane:secret@server"),
        ("CUDA_VISIBLE_DEVICES", "GPU-1"),
        ("CUDA_DEVICE_ORDER", "PCI_BUS_ID"),
        ("OMP_NUM_THREADS", "64"),
        ("VLLM_NOTE", "x" * 200),
        ("VLLM_NOTE", "a\x1b[31m"),
        ("VLLM_EXTRA", "sk-proj-Ab3dE5gH7jK9mN1pQ3sT5vW7"),
        ("VLLM_HUB", "hf_aBcDeFgHiJkLmN0pQrStUvWxYz123456"),
        ("TORCH_LOGIN", "9f86d081884c7d659a2feaa0c55ad015"),
        ("VLLM_SESSION", "eyJhbGciOiJIUzI.eyJzdWIiOiIx.c2lnbmVk"),
        ("NCCL_NOTE", "0b7e4a52-1c9d-4e0f-a1b2-c3d4e5f60718"),
        ("HOME", "1"),
        ("AWS_SECRET_ACCESS_KEY", "1"),
    ],
)
def test_secrets_people_and_places_are_not_kept(tree, name, value):
    """Nor what a launch sets anew, nor what an engine doesn't read."""
    host = fingerprint.probe(tree(NEOVERSE))
    assert fingerprint.with_variables(host, {name: value}) == host


def test_compile_caches_that_hold_something_are_named(tree, tmp_path):
    """By name alone: where they lie is nobody's business, and a difference means nothing."""
    host = fingerprint.probe(tree(NEOVERSE))
    environ = {"HOME": str(tmp_path), "TMPDIR": str(tmp_path / "tmp"), "USER": "jane", "VLLM_CACHE_ROOT": "~/elsewhere"}
    cold = fingerprint.with_compile_caches(host, environ)
    assert cold.fields["compile_caches"] == "none"
    for folder in (".triton/cache/a", "tmp/torchinductor_jane/b", "elsewhere", ".cache/vllm/c"):
        (tmp_path / folder).mkdir(parents=True)
    warm = fingerprint.with_compile_caches(host, environ)
    assert warm.fields["compile_caches"] == "torch, triton"
    assert not cold.differences(warm, Role.MUST_MATCH, Role.PART_OF_DEVICE, Role.NOTE)
