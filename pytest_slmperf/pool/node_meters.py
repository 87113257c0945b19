"""Joules of the machines of a Ray cluster: a meter of its own on each node, read by that node's clock, as one meter."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from pytest_slmperf.core.devices.board import BoardState
from pytest_slmperf.core.devices.remote_clock import RemoteClock, trace_here
from pytest_slmperf.core.errors import EngineUnavailable, MeterUnavailable
from pytest_slmperf.core.meter import Meter, MeterFacts, Recording
from pytest_slmperf.meters.nvml import NvmlMeter
from pytest_slmperf.meters.rapl import RaplMeter
from pytest_slmperf.pool.ray import Cluster, Handle, compare_clocks, here_ns

LIMIT_S = 30.0
"""Until a node's meter answers."""
UNTOLD = "on another machine, whose processes can't be told from the replicas' own"
Node = Mapping[str, Any]
"""As Ray describes it."""
Make = Callable[[], Meter]
"""Makes a node's meter, on that node; is carried there."""


def make_of(node: Node) -> Make:
    """The meter of a node: its GPUs' where Ray gives any to replicas, or else its cores'."""
    gpus = int(node["Resources"].get("GPU", 0))
    return partial(NvmlMeter, tuple(range(gpus))) if gpus else RaplMeter


class OnNode:
    """A meter in an actor's process on its node. What it raises there is told as a text."""

    def __init__(self, make: Make) -> None:
        self._meter = make()

    def now_ns(self) -> int:
        """This machine's CLOCK_MONOTONIC, as its meter reads it."""
        return here_ns()

    def open(self) -> MeterFacts | str:
        """Its boards, or why there are none."""
        try:
            return self._meter.open()
        except MeterUnavailable as error:
            return str(error)

    def states(self) -> Mapping[str, BoardState]:
        """Every board as it is now."""
        return self._meter.states()

    def start(self) -> None:
        """Begin to read."""
        self._meter.start()

    def stop(self) -> Recording:
        """End reading."""
        return self._meter.stop()

    def close(self) -> None:
        """End the session."""
        self._meter.close()


@dataclass
class _Read:
    """A node that is read."""

    address: str
    meter: Handle
    facts: MeterFacts
    clock: RemoteClock


class ClusterMeter:
    """The boards of all nodes of a cluster as one meter. See `core.meter.Meter`.

    Times are by this machine's clock. Twice the error of each node's clock widens every look at its counters, and so
    becomes part of its joules' error: the replicas' times, by which tokens are counted, come over with as much. A node
    without a meter leaves all without joules, as the sum would lack its own.
    """

    def __init__(self, cluster: Cluster, make: Callable[[Node], Make] = make_of) -> None:
        self._cluster, self._make = cluster, make
        self._nodes: list[_Read] = []
        self._missing: dict[str, str] = {}

    def open(self) -> MeterFacts:
        """Have each node find its boards. Raises MeterUnavailable where none has any, or there is no cluster."""
        try:
            ray = self._cluster.ray
        except EngineUnavailable as error:
            raise MeterUnavailable(str(error)) from error
        for node in (node for node in ray.nodes() if node["Alive"]):
            address = f"node {node['NodeManagerAddress']}"
            try:
                meter = self._cluster.actor_on(node["NodeID"], OnNode, self._make(node))
                told = ray.get(meter.open.remote(), timeout=LIMIT_S)
                if isinstance(told, MeterFacts) and self._reads(told.boards):
                    continue  # two nodes on one machine
                if isinstance(told, MeterFacts):
                    self._nodes.append(_Read(address, meter, told, compare_clocks(ray, meter)))
                else:
                    self._missing[address] = told
            except ray.exceptions.RayError as error:
                self._missing[address] = f"its meter can't be started: {error}"
        if not self._nodes:
            self.close()
            raise MeterUnavailable("; ".join(f"{address}: {why}" for address, why in self._missing.items()))
        facts = [node.facts for node in self._nodes]
        return MeterFacts(
            "ray",
            boards=(*(board for one in facts for board in one.boards), *self._missing),
            sources={
                **{board: source for one in facts for board, source in one.sources.items()},
                **dict.fromkeys(self._missing),
            },
            simulated=any(one.simulated for one in facts),
            versions={name: version for one in facts for name, version in one.versions.items()},
            missing={**{board: why for one in facts for board, why in one.missing.items()}, **self._missing},
        )

    def _reads(self, boards: Sequence[str]) -> bool:
        return any(board in node.facts.boards for node in self._nodes for board in boards)

    def states(self) -> Mapping[str, BoardState]:
        """Every board that a node tells of. Whose processes are on it isn't known here."""
        found: dict[str, BoardState] = {}
        for node, told in self._asked("states"):
            for board, state in (told or {}).items():
                found[board] = replace(
                    state,
                    at_ns=node.clock.here_ns(state.at_ns),
                    processes=None,
                    untold={**state.untold, "processes": UNTOLD},
                )
        return found

    def start(self) -> None:
        """Compare the nodes' clocks with this one's, and begin to read on all of them."""
        ray = self._cluster.ray
        for node in self._nodes:
            with suppress(ray.exceptions.RayError):  # it is told when reading ends
                node.clock = compare_clocks(ray, node.meter)
        self._asked("start")

    def stop(self) -> Recording:
        """End reading on all of them. A node that is gone has no trace, and the reason."""
        recordings = []
        missing = dict(self._missing)
        for node, told in self._asked("stop"):
            if isinstance(told, Recording):
                recordings.append(_here(told, node.clock))
            else:
                missing.update(dict.fromkeys(node.facts.boards, f"{node.address} gave no answer"))
        return summed(recordings, missing)

    def close(self) -> None:
        """End the sessions, and the connection to the cluster."""
        if self._nodes:
            self._asked("close")
        self._nodes = []
        self._cluster.close()

    def _asked(self, what: str) -> list[tuple[_Read, Any]]:
        """What every node answers, all of them asked before any is waited for; None where one doesn't."""
        ray = self._cluster.ray
        asked = [(node, getattr(node.meter, what).remote()) for node in self._nodes]
        answered = []
        for node, reference in asked:
            told = None
            with suppress(ray.exceptions.RayError):
                told = ray.get(reference, timeout=LIMIT_S)
            answered.append((node, told))
        return answered


def _here(recording: Recording, clock: RemoteClock) -> Recording:
    doubtful = replace(clock, error_ns=2 * clock.error_ns)
    return replace(
        recording,
        traces=tuple(trace_here(trace, doubtful) for trace in recording.traces),
        samples={
            board: tuple(replace(one, at_ns=clock.here_ns(one.at_ns), processes=None) for one in samples)
            for board, samples in recording.samples.items()
        },
    )


def summed(recordings: Sequence[Recording], missing: Mapping[str, str]) -> Recording:
    """What several meters saw, by one clock, as one."""
    return Recording(
        traces=tuple(trace for one in recordings for trace in one.traces),
        samples={board: samples for one in recordings for board, samples in one.samples.items()},
        sm_activity={board: share for one in recordings for board, share in one.sm_activity.items()},
        missing={**{board: why for one in recordings for board, why in one.missing.items()}, **missing},
    )
