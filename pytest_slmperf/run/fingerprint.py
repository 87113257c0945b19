"""What this machine is, and which commit is checked out.

Facts come from /proc and /sys, which tests give as recorded trees, from a GPU's driver, and from the environment. No
host name, no user name and no secret is kept: a baseline is committed, and machines are called after people.
"""

import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from pytest_slmperf.core.machine import REMOTE, SIMULATED, Machine, Scalar, same, shown
from pytest_slmperf.meters.boards import Board
from pytest_slmperf.pool.control_groups import control_groups

GIT_LIMIT_S = 10.0

_ARM_CORES = {  # CPU part numbers of implementer 0x41, where /proc/cpuinfo names no model
    "0xd08": "Cortex-A72",
    "0xd0b": "Cortex-A76",
    "0xd0c": "Neoverse-N1",
    "0xd40": "Neoverse-V1",
    "0xd49": "Neoverse-N2",
    "0xd4f": "Neoverse-V2",
}

_HYPERVISORS = (  # what the firmware's vendor or product name says
    ("kvm", "kvm"),
    ("qemu", "kvm"),
    ("google compute engine", "kvm"),
    ("amazon ec2", "kvm"),
    ("firecracker", "kvm"),
    ("openstack", "kvm"),
    ("vmware", "vmware"),
    ("microsoft", "hyper-v"),
    ("xen", "xen"),
    ("virtualbox", "virtualbox"),
    ("innotek", "virtualbox"),
)

_CONTAINERS = (("kubepods", "kubernetes"), ("docker", "docker"), ("containerd", "containerd"), ("lxc", "lxc"))

_PREFIXES = (
    *("CT2_", "CUBLAS_", "CUDA_", "CUDNN_", "NCCL_", "PYTORCH_", "TORCH", "VLLM_"),
    *("KMP_", "MKL_", "OMP_", "OPENBLAS_"),
)
"""Of environment variables that engines and their libraries read."""
_SAID_ELSEWHERE = frozenset(
    {
        "CUDA_DEVICE_ORDER",  # which board it leads to is in the fingerprint
        "CUDA_VISIBLE_DEVICES",
        "MKL_NUM_THREADS",  # set anew for each launch: the threads are in the key
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
    }
)
_SECRET = ("AUTH", "CREDENTIAL", "KEY", "PASSW", "SECRET", "TOKEN")
"""In the name of a variable whose value is nobody's business."""
_WHO = frozenset({"ADDR", "ADDRESS", "HOST", "HOSTNAME", "IP", "PORT", "USER"})
"""A word in the name of one that names a machine or a person."""
_OF_ONE_RUN = ("COMM_ID", "RUN_ID")
"""At the end of the name of one that is another in every run."""
_ADDRESS = re.compile(r"\d+\.\d+\.\d+\.\d+|\.\S*:\d+$")
_DRAWN = re.compile(r"(?=[a-z]*[0-9])(?=[0-9]*[a-z])[a-z0-9]{16,}|[0-9a-f]{8}(-[0-9a-f]{4}){3}|eyj", re.IGNORECASE)
"""In a value: letters and digits without a word, as keys, tokens and UUIDs have them, whatever its variable is."""
_LONGEST = 100
_COMPILE_CACHES = {  # what says where each lies, and where it lies by default
    "cuda": ("CUDA_CACHE_PATH", "~/.nv/ComputeCache"),
    "torch": ("TORCHINDUCTOR_CACHE_DIR", "{tmp}/torchinductor_{user}"),
    "triton": ("TRITON_CACHE_DIR", "~/.triton/cache"),
    "vllm": ("VLLM_CACHE_ROOT", "~/.cache/vllm"),
}


def probe(root: Path = Path("/")) -> Machine:
    """The CPU machine that this process runs on, as far as it may use it; `root` holds its /proc and /sys.

    A fact that can't be read is left out.
    """
    cpus = _processors(root)
    cores = _usable_cores(root, len(cpus))
    release = _text(root, "proc/sys/kernel/osrelease") or platform.release()
    fields: dict[str, Scalar] = {
        "cores": cores,
        "smt": _flag(root, "sys/devices/system/cpu/smt/active"),
        "virtualisation": _virtualisation(cpus),
        "hypervisor": _hypervisor(root),
        "container": _container(root),
        "sockets": len({cpu["physical id"] for cpu in cpus if "physical id" in cpu}) or None,
        "l2_kib": _cache_kib(root, 2),
        "l3_kib": _cache_kib(root, 3),
        "memory_gib": _memory_gib(root),
        "governor": _governors(root),
        "turbo": _turbo(root),
        "microcode": cpus[0].get("microcode") if cpus else None,
        "kernel": release,
        "huge_pages": _chosen(_text(root, "sys/kernel/mm/transparent_hugepage/enabled")),
    }
    noun = "core" if cores == 1 else "cores"
    device = f"{_model(cpus)}, {cores} {noun}" if cores else _model(cpus)
    return Machine(device, _series(release), {name: value for name, value in fields.items() if value is not None})


def simulated() -> Machine:
    """The machine of the fake engine: the same everywhere, and comparable with no real one."""
    return Machine(SIMULATED, SIMULATED)


def remote(client: Machine, address: str) -> Machine:
    """The machine of a server at this address. Nothing is known of it; of this one goes along what sends the requests,
    and is worth a note.
    """
    asks = {"client": client.device, "client_kernel": client.fields.get("kernel")}
    return Machine(f"{REMOTE} {address}", "unknown", {name: value for name, value in asks.items() if value is not None})


def with_boards(host: Machine, boards: Sequence[Board]) -> Machine:
    """The machine of an engine on these GPUs. What the host is goes along, and is worth a note.

    Of several the device is called by their number, and a field in which they differ lists them.
    """
    names = [board.name for board in boards]
    counted = (f"{names.count(name)} x {name}" if names.count(name) > 1 else name for name in dict.fromkeys(names))
    simulated = [SIMULATED] if any(board.simulated for board in boards) else []
    device = " ".join([*simulated, " and ".join(counted)])
    told = dict.fromkeys(name for board in boards for name in board.fields)
    fields = {name: _of_all([board.fields.get(name) for board in boards]) for name in told}
    return Machine(device, boards[0].driver, {**host.fields, "cpu": host.device, **fields})


def _of_all(values: Sequence[Scalar]) -> Scalar:
    return values[0] if all(same(value, values[0]) for value in values) else ", ".join(map(shown, values))


def with_compile_caches(machine: Machine, environ: Mapping[str, str]) -> Machine:
    """The machine with the names of the compilers' caches that hold something before the first launch, or `none`.

    How long a first start takes hangs on them, and nothing that is gated: a launch that doesn't count fills them.
    """
    home, tmp = environ.get("HOME", "/nowhere"), environ.get("TMPDIR", "/tmp")  # noqa: S108 - where torch puts it
    filled = []
    for name, (variable, default) in _COMPILE_CACHES.items():
        place = environ.get(variable) or default.format(tmp=tmp, user=environ.get("USER", ""))
        folder = Path(place.replace("~", home, 1) if place.startswith("~") else place)
        with suppress(OSError):
            filled += [name] if any(folder.iterdir()) else []
    fields = {**machine.fields, "compile_caches": ", ".join(filled) or "none"}
    return Machine(machine.device, machine.driver, fields)


def with_variables(machine: Machine, environ: Mapping[str, str]) -> Machine:
    """The machine with the variables that engines and their libraries read, as `env.NAME`.

    Left out are names that speak of secrets, hosts and people, and values that look like a key, a path or an address:
    they lead to a person's folder or a machine, and a measurement doesn't depend on where something lies.
    """
    found = {f"env.{name}": value for name, value in sorted(environ.items()) if _recordable(name, value)}
    return Machine(machine.device, machine.driver, {**machine.fields, **found})


def _recordable(name: str, value: str) -> bool:
    if not name.startswith(_PREFIXES) or name in _SAID_ELSEWHERE:
        return False
    if any(word in name.upper() for word in _SECRET) or _WHO & {*name.upper().split("_")}:
        return False
    if name.upper().endswith(_OF_ONE_RUN) or _ADDRESS.search(value) or _DRAWN.search(value):
        return False
    return len(value) <= _LONGEST and value.isprintable() and not set(value) & set("/\\@")


def commit(folder: Path = Path()) -> str | None:
    """The commit that is checked out, with `-dirty` where tracked files differ from it; None outside of git."""
    return _git(folder, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*") or None


def by(folder: Path = Path()) -> str:
    """Who git thinks is working here; empty where it doesn't know."""
    return _git(folder, "config", "user.name")


def _git(folder: Path, *words: str) -> str:
    command = ["git", "-C", str(folder), *words]
    try:
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=GIT_LIMIT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _text(root: Path, path: str) -> str:
    try:
        return (root / path).read_text(encoding="utf-8", errors="replace").strip("\0 \t\n")
    except OSError:
        return ""


def _processors(root: Path) -> list[Mapping[str, str]]:
    """The blocks of /proc/cpuinfo that describe a processor."""
    blocks: list[Mapping[str, str]] = []
    for text in re.split(r"\n\s*\n", _text(root, "proc/cpuinfo")):
        pairs = (line.partition(":") for line in text.splitlines() if ":" in line)
        block = {name.strip(): value.strip() for name, _, value in pairs}
        if "processor" in block:
            blocks.append(block)
    return blocks


def _model(cpus: list[Mapping[str, str]]) -> str:
    """A name that tells generations apart: virtual machines call them all `Intel Xeon Processor`."""
    if not cpus:
        return platform.processor() or platform.machine() or "unknown CPU"
    first = cpus[0]
    if "model name" in first:
        name = " ".join(re.sub(r"\((?:R|TM|r|tm)\)", " ", first["model name"]).split())
        generic = "virtual" in name.lower() or not re.search(r"\d", name.partition("@")[0])
        numbers = [first[field] for field in ("cpu family", "model", "stepping") if field in first]
        return f"{name} {'-'.join(numbers)}" if generic and numbers else name
    if "CPU part" in first:
        part, implementer = first["CPU part"], first.get("CPU implementer", "")
        known = _ARM_CORES.get(part) if implementer == "0x41" else None
        return f"ARM {known}" if known else f"ARM {implementer} {part}"
    return first.get("cpu model") or first.get("uarch") or platform.machine()


def _series(release: str) -> str:
    match = re.match(r"\d+\.\d+", release)
    return f"linux-{match[0]}" if match else f"linux-{release or 'unknown'}"


def _usable_cores(root: Path, present: int) -> int | float | None:
    """Logical cores that the affinity mask and the control groups leave to this process."""
    allowed = re.search(r"^Cpus_allowed_list:\s*(\S+)", _text(root, "proc/self/status"), re.MULTILINE)
    counts = [float(_listed(allowed[1]) if allowed else present), *_quotas(root)]
    cores = round(min(count for count in counts), 2)
    return None if cores <= 0 else int(cores) if cores.is_integer() else cores


def _listed(spans: str) -> int:
    """How many numbers a list like `0-3,8` has."""
    ends = (span.partition("-") for span in spans.split(","))
    return sum(int(last or first) - int(first) + 1 for first, _, last in ends)


def quota(root: Path = Path("/")) -> float | None:
    """Cores' worth of time that the control groups of this process allow it; None for no limit."""
    return min(_quotas(root), default=None)


def _quotas(root: Path) -> list[float]:
    """Cores' worth of time that control groups allow, version 2 and 1."""
    quotas = []
    for group in control_groups("cpu", root=root):
        limit = _text(group, "cpu.max").split()
        if not limit:
            limit = [_text(group, "cpu.cfs_quota_us"), _text(group, "cpu.cfs_period_us")]
        if len(limit) == 2 and limit[0].isdigit() and limit[1].isdigit():
            quotas.append(int(limit[0]) / int(limit[1]))
    return quotas


def _memory_gib(root: Path) -> float | None:
    """Memory that this process may use, to a tenth of a GiB."""
    total = re.search(r"^MemTotal:\s*(\d+) kB", _text(root, "proc/meminfo"), re.MULTILINE)
    limits = [int(total[1]) * 1024] if total else []
    for group in control_groups("memory", root=root):
        texts = (_text(group, "memory.max"), _text(group, "memory.limit_in_bytes"))
        limits += [int(text) for text in texts if text.isdigit()]
    return round(min(limits) / 2**30, 1) if limits else None


def _cache_kib(root: Path, level: int) -> int | None:
    """Size of a cache of the first core."""
    for entry in sorted((root / "sys/devices/system/cpu/cpu0/cache").glob("index*")):
        size = re.fullmatch(r"(\d+)([KM])", _text(entry, "size"))
        if size and _text(entry, "level") == str(level) and _text(entry, "type") in ("Unified", "Data"):
            return int(size[1]) * (1024 if size[2] == "M" else 1)
    return None


def _governors(root: Path) -> str | None:
    paths = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor"))
    return ",".join(sorted({_text(path.parent, path.name) for path in paths})) or None


def _turbo(root: Path) -> bool | None:
    off = _flag(root, "sys/devices/system/cpu/intel_pstate/no_turbo")
    return _flag(root, "sys/devices/system/cpu/cpufreq/boost") if off is None else not off


def _flag(root: Path, path: str) -> bool | None:
    return {"0": False, "1": True}.get(_text(root, path))


def _chosen(text: str) -> str | None:
    """The entry in brackets of `always [madvise] never`."""
    match = re.search(r"\[(\w+)\]", text)
    return match[1] if match else None


def _virtualisation(cpus: list[Mapping[str, str]]) -> str | None:
    """Whether a hypervisor is below: x86 says so in a flag that is always readable. Unknown elsewhere."""
    if not cpus or "flags" not in cpus[0]:
        return None
    return "virtual" if "hypervisor" in cpus[0]["flags"].split() else "none"


def _hypervisor(root: Path) -> str | None:
    xen = _text(root, "sys/hypervisor/type")
    if xen:
        return xen
    names = " ".join(_text(root, f"sys/class/dmi/id/{name}") for name in ("sys_vendor", "product_name")).lower()
    return next((kind for word, kind in _HYPERVISORS if word in names), None)


def _container(root: Path) -> str | None:
    groups = _text(root, "proc/1/cgroup") + _text(root, "proc/self/cgroup")
    for word, kind in _CONTAINERS:
        if word in groups:
            return kind
    if (root / ".dockerenv").exists():
        return "docker"
    return "podman" if (root / "run/.containerenv").exists() else None
