"""A replica pool as a value: how many engines serve behind one, where each runs, and how requests are spread."""

import math
from dataclasses import dataclass

from pytest_slmperf.core.errors import UsageError

KINDS = ("processes", "mps", "mig", "gpus", "threads", "endpoints", "ray")
SPREADS = ("even", "round-robin", "shortest-queue")
ELSEWHERE = ("endpoints", "ray")
"""Kinds whose replicas somebody else starts, or somewhere else."""
MOST_REPLICAS = 1_024
POOL_OPTIONS = {
    "replicas": "replicas",
    "pool": "kind",
    "spread": "spread",
    "addresses": "addresses",
    "ray_resource": "resource",
    "slowed_replica": "slowed_replica",
    "pool_memory_bytes": "memory_bytes",
    "pool_power_limit_w": "power_limit_w",
}
"""What is said of a replica pool among the options of an engine, and the field of a pool that it is."""


@dataclass(frozen=True, slots=True)
class Pool:
    """Several replicas of one engine behind one engine. Raises UsageError for what makes no sense."""

    replicas: int
    kind: str = "processes"
    """Where the replicas run. `processes`: beside each other on the engine's device; on a CPU each on cores of its own.
    `mps`: the same on a GPU, under an MPS daemon of the pool's own. `mig`: each on a MIG slice that exists. `gpus`:
    each on a GPU of its own. `threads`: inside one engine that knows how. `endpoints`: servers that run already.
    `ray`: actors on the machines of a Ray cluster.
    """
    spread: str = "even"
    """How requests go to them. `even`: each gets the same share of a batch, and of traffic every so-manyth request.
    `round-robin`: one after the other. `shortest-queue`: to the one with the fewest under way.
    """
    addresses: tuple[str, ...] = ()
    """Of `endpoints`, one for each replica; of `ray`, the cluster's address where it isn't started here."""
    resource: str = ""
    """Of `ray`: a custom resource that a replica's node must have, as `accelerator_type:L4`."""
    memory_bytes: int | None = None
    """Of each GPU, that the replicas on it may take together; None for all of it."""
    power_limit_w: float | None = None
    """Of each GPU, that this is a case of: elsewhere it can't be measured, since the limit is never set from here."""
    slowed_replica: int | None = None
    """Where a loss is planted: in this replica alone, counted from 1; None for all of them."""

    def __post_init__(self) -> None:
        if type(self.replicas) is not int or not 1 <= self.replicas <= MOST_REPLICAS:
            raise UsageError(f"replicas={self.replicas!r}; it takes a whole number from 1 to {MOST_REPLICAS:,}")
        for name, value, known in (("kind", self.kind, KINDS), ("spread", self.spread, SPREADS)):
            if value not in known:
                raise UsageError(f"{name}={value!r} of a replica pool; known are {', '.join(known)}")
        for name, budget in (("memory_bytes", self.memory_bytes), ("power_limit_w", self.power_limit_w)):
            if budget is not None and not 0 < budget < math.inf:
                raise UsageError(f"{name}={budget!r} of a replica pool; it takes a positive number")
        if self.addresses and self.kind not in ELSEWHERE:
            raise UsageError(f"addresses of a pool of the kind {self.kind}: only {' and '.join(ELSEWHERE)} take them")
        if self.resource and self.kind != "ray":
            raise UsageError(f"ray_resource={self.resource!r} of a pool of the kind {self.kind}: only ray takes it")
        slow = self.slowed_replica
        if slow is not None and (type(slow) is not int or not 1 <= slow <= self.replicas):
            of = f"of the {self.replicas} replicas" if self.replicas > 1 else "of several replicas, as in replicas=2"
            raise UsageError(f"slowed_replica={slow!r}; it takes one {of}, counted from 1")

    @property
    def here(self) -> bool:
        """Whether its replicas run on this machine's cores, and are started by the launch."""
        return self.kind not in ELSEWHERE
