"""Where each replica of a pool runs: its cores, its GPU or slice, its share of the memory, and what it is called.

What there is (`Host`) is looked at once; what follows from it (`placements`) is a function of values. Nothing of a card
is ever set: no MIG slice is made, no power limit or compute mode changed.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pytest_slmperf.core.devices.gpus import Gpu, Slice, first_gpu, gpus_each, visible_of
from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.errors import EngineUnavailable, UsageError
from pytest_slmperf.core.pool import Pool
from pytest_slmperf.engines import sharing
from pytest_slmperf.pool import mig

VISIBLE, ORDER = "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"
MEMORY_LIMIT = "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"
"""What a client of MPS may take of each device: `0=20480M`."""
ON_A_GPU = ("mps", "mig", "gpus")
"""Kinds that make no sense elsewhere."""
SHARING = ("processes", "mps")
"""Kinds whose replicas share a GPU, or all GPUs that each of them spreads over."""
EXCLUSIVE = ("exclusive thread", "exclusive process")
MIB, GIB = 2**20, 2**30
SAME_WATTS = 0.001
"""Share by which a power limit may differ and be the one that is asked for."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where one replica runs, and what it is started with."""

    label: str = ""
    """`core 1`, `GPU 2`, `GPU 0, MPS`, `GPU 0, MIG 1g.10gb`; empty where nothing is to be said."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Set before its process starts, beside what is there."""
    cores: tuple[int, ...] = ()
    """That it is pinned to; empty where it isn't."""
    options: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    """In place of the spec's of these names: its share of the memory, and its GPU as it counts them itself."""
    gpus: tuple[str, ...] = ()
    """The UUIDs of the GPUs that it runs on, for our books; of a MIG slice the GPU's."""


@dataclass(frozen=True, slots=True)
class Host:
    """What a pool may use of a machine."""

    device: str
    """`cpu`, `cuda`, `simulated`, as engines call it."""
    cores: tuple[int, ...] = ()
    """That the launch was given; empty where nobody is pinned."""
    nodes: Mapping[int, int] = field(default_factory=dict)
    """The NUMA node of each core."""
    siblings: Mapping[int, frozenset[int]] = field(default_factory=dict)
    """The cores that share each one's units, itself included."""
    gpus: tuple[Gpu, ...] = ()
    """All of them, as the driver counts."""
    visible: tuple[int | str, ...] | None = None
    """Which of them may be used: what CUDA_VISIBLE_DEVICES says, None where it says nothing."""
    memory_free_bytes: int | None = None
    """Of the host, as far as this run may take it."""


def placements(pool: Pool, spec: EngineSpec, host: Host) -> tuple[Placement, ...]:
    """Where each replica runs, in their order.

    Raises UsageError for what can't be on any machine, and EngineUnavailable for what can't be on this one.
    """
    if pool.kind in ON_A_GPU and host.device != "cuda":
        raise UsageError(
            f"a pool of the kind {pool.kind} needs a GPU, and {spec.engine} is to run on {host.device}: "
            "take the kind processes, or device=cuda"
        )
    cores = split_cores(host, pool.replicas, spec.threads)
    if host.device != "cuda":
        if pool.memory_bytes is not None or pool.power_limit_w is not None:
            raise UsageError("memory_bytes and power_limit_w of a pool are a GPU's")
        if pool.kind == "processes":
            _refuse_too_little(pool, sharing.least_bytes(spec, host.device), host.memory_free_bytes, "this run")
        return tuple(Placement(_cores_label(own), cores=own) for own in cores)
    gpus = visible_of(host.gpus, host.visible)
    if pool.kind == "mig":
        return _on_slices(pool, spec, gpus, cores)
    return _on_gpus(pool, spec, gpus, cores)


def _on_gpus(
    pool: Pool, spec: EngineSpec, gpus: Sequence[Gpu | Slice], cores: Sequence[tuple[int, ...]]
) -> tuple[Placement, ...]:
    """On whole GPUs: each on its own, or all on the same."""
    first, each = first_gpu(spec.options), gpus_each(spec.options)
    apart = each if pool.kind == "gpus" else 0
    needed = first + each + apart * (pool.replicas - 1)
    if needed > len(gpus):
        width = f" of {each} GPUs each" if each > 1 else ""
        raise EngineUnavailable(
            f"{pool.replicas} replicas{width} ({pool.kind}) need the GPUs {first} to {needed - 1}, and {len(gpus)} can "
            "be seen here: lower replicas, or let them share one with the kind processes or mps"
        )
    own = [tuple(gpus[first + apart * number :][:each]) for number in range(pool.replicas)]
    taken = list(dict.fromkeys(gpu for some in own for gpu in some))
    for gpu in taken:
        _refuse_setting(pool, spec, gpu)
    room = _room(pool, spec, taken, sharers=pool.replicas if pool.kind in SHARING else 1, each=each)
    models = {gpu.name for gpu in taken if isinstance(gpu, Gpu)}
    found = []
    for some, its_cores in zip(own, cores, strict=True):
        called = _called(some, by_model=len(models) > 1)
        # The server of MPS counts its devices anew, whatever number each has outside of it.
        names = [str(place) for place in range(each)] if pool.kind == "mps" else [gpu.visible for gpu in some]
        environment = {VISIBLE: ",".join(names), ORDER: "PCI_BUS_ID"}
        if pool.kind == "mps" and pool.memory_bytes is not None:
            limit_mib = int(room.bytes_each) // MIB
            environment[MEMORY_LIMIT] = ",".join(f"{place}={limit_mib}M" for place in range(each))
        label = f"{called}{', MPS' if pool.kind == 'mps' else ''}"
        options = _options(spec, room, some)
        found.append(Placement(label, environment, its_cores, options, tuple(map(_board, some))))
    return tuple(found)


def _on_slices(
    pool: Pool, spec: EngineSpec, gpus: Sequence[Gpu | Slice], cores: Sequence[tuple[int, ...]]
) -> tuple[Placement, ...]:
    """Each on a MIG slice of its own."""
    if gpus_each(spec.options) > 1:
        raise UsageError("a replica on a MIG slice can't spread over several GPUs: slices don't reach each other")
    _refuse_slices(spec)
    taken = mig.choose(gpus, pool.replicas)
    for gpu in gpus:
        if isinstance(gpu, Gpu) and any(one.board == gpu.uuid for one in taken):
            _refuse_watts(pool, gpu)
    room = _room(pool, spec, taken, sharers=1, each=1)
    numbers = {gpu.uuid: f"GPU {gpu.index}, " for gpu in gpus if isinstance(gpu, Gpu)}
    return tuple(
        Placement(
            f"{numbers.get(one.board, '')}MIG {one.profile}",
            {VISIBLE: one.visible, ORDER: "PCI_BUS_ID"},
            its_cores,
            _options(spec, room, (one,)),
            (one.board,),
        )
        for one, its_cores in zip(taken, cores, strict=True)
    )


def _refuse_slices(spec: EngineSpec) -> None:
    """Raises EngineUnavailable for an engine that can't be given a MIG slice."""
    if not sharing.reads_uuids(spec.engine):
        raise EngineUnavailable(
            f"{spec.engine} names GPUs by number, and a MIG slice has only a UUID: take another engine, or the kind "
            "mps, which shares a GPU with MIG off"
        )


def _refuse_setting(pool: Pool, spec: EngineSpec, gpu: Gpu | Slice) -> None:
    """Raises EngineUnavailable for a GPU on which these replicas can't run, as it is set."""
    if isinstance(gpu, Slice):
        _refuse_slices(spec)
        if pool.kind == "mps":
            raise EngineUnavailable(
                f"the pool's GPU is a MIG slice ({gpu.profile}), and a daemon of MPS for one is not made here: take "
                "the kind mig, or processes"
            )
        return
    if gpu.mig:
        raise EngineUnavailable(
            f"MIG is on on GPU {gpu.index} ({gpu.name}), and no process may use it as a whole: take the kind mig"
        )
    alone = pool.kind != "mps" and pool.kind in SHARING and pool.replicas > 1
    if gpu.compute_mode == "prohibited" or (gpu.compute_mode in EXCLUSIVE and alone):
        allows = "no process" if gpu.compute_mode == "prohibited" else "one process alone"
        raise EngineUnavailable(
            f"the compute mode of GPU {gpu.index} ({gpu.name}) is {gpu.compute_mode}, which lets {allows} use it: "
            "sudo nvidia-smi --compute-mode=DEFAULT, or with exclusive process the kind mps"
        )
    _refuse_watts(pool, gpu)


def _refuse_watts(pool: Pool, gpu: Gpu) -> None:
    """Raises EngineUnavailable where the power limit isn't the one that the pool is a case of."""
    wanted, is_set = pool.power_limit_w, gpu.power_limit_w
    if wanted is None or (is_set is not None and abs(is_set / wanted - 1) <= SAME_WATTS):
        return
    told = "isn't told" if is_set is None else f"is {is_set:g} W"
    raise EngineUnavailable(
        f"this case is of a power limit of {wanted:g} W, and that of GPU {gpu.index} ({gpu.name}) {told}. It is never "
        f"set from here: sudo nvidia-smi --id={gpu.index} --power-limit={wanted:g}"
    )


@dataclass(frozen=True, slots=True)
class _Room:
    """The memory that each replica gets of each of its GPUs."""

    bytes_each: float
    share: float
    """Of what a single engine would get of the smallest of the GPUs."""
    fixed: bool
    """Whether the engine has to be told: not where each replica has a GPU to itself, and all are alike."""


def _room(pool: Pool, spec: EngineSpec, places: Sequence[Gpu | Slice], *, sharers: int, each: int) -> _Room:
    """The same for all: a share of the smallest one's memory, or of the budget. Raises EngineUnavailable where that is
    too little for the model, or more than is free.
    """
    told = [place.memory_bytes for place in places]
    sizes = [size for size in told if size is not None]
    if len(sizes) < len(told):
        raise EngineUnavailable("the driver doesn't tell a GPU's memory, so that no share of it can be fixed")
    smallest = min(sizes)
    budget = smallest if pool.memory_bytes is None else pool.memory_bytes
    if budget > smallest:
        raise EngineUnavailable(f"a budget of {_gib(budget)} of memory is more than the GPU has: {_gib(smallest)}")
    if pool.memory_bytes is not None and not (sharing.reads_share(spec.engine) or pool.kind == "mps"):
        raise UsageError(
            f"nothing holds {spec.engine} to memory_bytes in a pool of the kind {pool.kind}: take the kind mps, whose "
            "server does, or leave it out"
        )
    free = [place.free_bytes for place in places if isinstance(place, Gpu) and place.free_bytes is not None]
    least = sharing.least_bytes(spec, "cuda")
    _refuse_too_little(pool, least and least // each, min(budget, *free, smallest), "the GPU", sharers=sharers)
    share = budget / smallest / sharers
    return _Room(budget / sharers, share, fixed=share < 1 or max(sizes) > smallest)


def _options(spec: EngineSpec, room: _Room, places: Sequence[Gpu | Slice]) -> dict[str, str | int | float | bool]:
    """In place of the spec's: the replica's share of the memory, and its first GPU as it counts them itself."""
    options: dict[str, str | int | float | bool] = {}
    if "device_index" in spec.options:
        options["device_index"] = 0
    if ":" in str(spec.options.get("device", "")):
        options["device"] = "cuda"
    if room.fixed:
        memory_bytes = min(place.memory_bytes or 0 for place in places)
        options |= sharing.share_of(spec, memory_bytes, room.bytes_each, share=room.share, gpus=len(places))
    return options


def _refuse_too_little(
    pool: Pool, least_bytes: int | None, free_bytes: int | None, where: str, *, sharers: int | None = None
) -> None:
    """Raises EngineUnavailable where the weights of these replicas, of which each takes so much, are more than is
    free.
    """
    sharers = pool.replicas if sharers is None else sharers
    if least_bytes is None or free_bytes is None or least_bytes * sharers <= free_bytes:
        return
    fit = free_bytes // least_bytes
    raise EngineUnavailable(
        f"not enough memory for {pool.replicas} replicas: the weights of each take {_gib(least_bytes)}, and {where} "
        f"has {_gib(free_bytes)} for them: {f'{fit} would fit' if fit else 'not even one fits'}"
    )


def split_cores(host: Host, replicas: int, threads: int) -> list[tuple[int, ...]]:
    """Disjoint cores for each replica, all of one NUMA node where a node has as many, and whole physical cores where
    that can be. Nothing for anybody where the launch wasn't given any. Raises UsageError for more replicas than cores.
    """
    if not host.cores:
        return [()] * replicas
    if replicas * threads > len(host.cores):
        raise UsageError(
            f"{replicas} replicas of {threads} thread{'s' if threads > 1 else ''} need {replicas * threads} cores, and "
            f"{len(host.cores)} can be used: lower replicas or threads"
        )
    left: dict[int, list[int]] = defaultdict(list)
    for core in _by_physical_core(host):
        left[host.nodes.get(core, 0)].append(core)
    found = []
    for _ in range(replicas):
        node = max(left, key=lambda node: (len(left[node]), -node))
        own: list[int] = []
        for place in (node, *(other for other in sorted(left) if other != node)):
            take = threads - len(own)
            own += left[place][:take]
            left[place] = left[place][take:]
        found.append(tuple(sorted(own)))
    return found


def _by_physical_core(host: Host) -> list[int]:
    """The cores in their order, those that share units one after the other."""
    ordered: dict[int, None] = {}
    for core in host.cores:
        ordered.setdefault(core)
        for sibling in sorted(host.siblings.get(core, frozenset()) & set(host.cores)):
            ordered.setdefault(sibling)
    return list(ordered)


def _cores_label(cores: tuple[int, ...]) -> str:
    if not cores:
        return ""
    return f"core{'s' if len(cores) > 1 else ''} {', '.join(map(str, cores))}"


def _called(places: Sequence[Gpu | Slice], *, by_model: bool) -> str:
    gpus = [f"{gpu.index} ({gpu.name})" if by_model else str(gpu.index) for gpu in places if isinstance(gpu, Gpu)]
    slices = [f"MIG slice {one.profile}" for one in places if isinstance(one, Slice)]
    return ", ".join([*([f"GPU {', '.join(gpus)}"] if gpus else []), *slices])


def _board(gpu: Gpu | Slice) -> str:
    return gpu.uuid if isinstance(gpu, Gpu) else gpu.board


def _gib(number: float) -> str:
    return f"{number / GIB:.3g} GiB"
