"""What is said of a machine's CPU where performance is to be gated on it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_slmperf.core.devices.edges import EnergyTrace, judge_trace
from pytest_slmperf.core.energy.window import COVERAGE_FACTOR
from pytest_slmperf.core.fitness.diagnosis import Grade, Line
from pytest_slmperf.core.machine import Machine
from pytest_slmperf.core.units import NS_PER_S

STOLEN = 0.02
"""Share of a core that the hypervisor takes, from which rounds are void: `run.guards` has it of here."""
STOLEN_FROM_BOOT = 0.01
BUSY = 0.05
"""Load on the cores, while nothing of ours runs, from which rounds get void now and then."""
OVERRUN = 0.5
"""Load from which hardly a round is left."""
PERFORMANCE = "performance"


@dataclass(frozen=True, slots=True)
class CpuWatch:
    """What the CPU did for a moment in which nothing of ours ran. None stands for what this machine doesn't tell."""

    seconds: float
    allowed: int
    """Logical cores that this process may use."""
    present: int | None
    busy: float | None
    """Share of the allowed cores that was in use."""
    who: str
    """Who used them, in words."""
    stolen: float | None
    """Share of the time that the hypervisor took, on the core that lost most."""
    stolen_from_boot: float | None
    """The same since the machine was started."""
    throttled: int | None
    """How often a core was slowed down because it was hot, in the watch."""
    throttled_from_boot: int | None
    blind_to: tuple[str, ...] = ()
    """What the guards of a round can't see here."""


def cpu_lines(machine: Machine, watch: CpuWatch, threads: int) -> tuple[Line, ...]:
    """Everything that is said of the CPU, for an engine with so many threads."""
    return (
        _cores(machine, watch, threads),
        _governor(machine),
        _turbo(machine),
        _huge_pages(machine),
        _heat(watch),
        _steal(machine, watch),
        _load(watch),
        *(Line("guards", Grade.NOT_SEEN, told) for told in watch.blind_to),
    )


def packages_line(traces: Sequence[EnergyTrace], missing: str, window_s: float) -> Line:
    """What is said of the energy counters of the CPU's packages, or why there are none (`missing`)."""
    topic = "cpu meter"
    if missing:
        return Line(topic, Grade.NOT_SEEN, f"{missing}; throughput can be gated without")
    fault = next(filter(None, map(judge_trace, traces)), None)
    if fault:
        return Line(topic, Grade.WARNING, fault.reason, "gate throughput alone here, or update the kernel")
    widths_ns = sorted(edge.standard_ns for trace in traces for edge in trace.edges)
    if not widths_ns:
        return Line(topic, Grade.WARNING, "its energy counters didn't move while they were looked at")
    edge_ns = widths_ns[len(widths_ns) // 2]
    error = COVERAGE_FACTOR * math.sqrt(2) * edge_ns / (window_s * NS_PER_S)
    said = (
        f"energy counters of {len(traces)} package{'' if len(traces) == 1 else 's'}, and a move is known to "
        f"{edge_ns / 1e6:.2g} ms: ±{error:.2%} of a window of {window_s:g} s"
    )
    return Line(topic, Grade.OK, said, values={"packages": len(traces), "edge_error": error})


def _cores(machine: Machine, watch: CpuWatch, threads: int) -> Line:
    cores, memory_gib = machine.fields.get("cores"), machine.fields.get("memory_gib")
    usable = float(cores) if isinstance(cores, (int, float)) else float(watch.allowed)
    where = machine.fields.get("container") or machine.fields.get("hypervisor")
    said = ", ".join(
        filter(
            None,
            (
                machine.device,
                f"{watch.allowed} of {watch.present} may be used" if watch.present not in (None, watch.allowed) else "",
                "two hardware threads a core" if machine.fields.get("smt") else "",
                f"{memory_gib:g} GiB" if isinstance(memory_gib, (int, float)) else "",
                machine.driver,
                f"in {where}" if where else "",
            ),
        )
    )
    values = {"usable_cores": usable, "allowed_cores": watch.allowed, "present_cores": watch.present}
    if threads > min(usable, watch.allowed):
        said = f"{said}; an engine of {threads} threads gets {usable:g} cores"
        return Line("cpu", Grade.BLOCKS, said, "lower threads in [tool.slmperf], or allow more cores", values)
    if usable < watch.allowed:
        said = f"{said}; a quota of {usable:g} cores' time: whoever has spent it is stopped until the next period"
        return Line("cpu", Grade.WARNING, said, "give whole cores in place of a quota (a cpuset)", values)
    if threads >= watch.allowed:
        said = f"{said}; the engine's {threads} leave none to pytest"
        return Line("cpu", Grade.WARNING, said, "allow one core more than the engine has threads", values)
    return Line("cpu", Grade.OK, said, values=values)


def _governor(machine: Machine) -> Line:
    governor = machine.fields.get("governor")
    if governor is None:
        return Line("governor", Grade.NOT_SEEN, "this machine doesn't show what governs its clock")
    values = {"governor": governor}
    if governor == PERFORMANCE:
        return Line("governor", Grade.OK, PERFORMANCE, values=values)
    said = f"{governor}: the clock follows the load, and a round's pace its past"
    return Line("governor", Grade.WARNING, said, "sudo cpupower frequency-set -g performance", values)


def _turbo(machine: Machine) -> Line:
    turbo = machine.fields.get("turbo")
    if turbo is None:
        return Line("turbo", Grade.NOT_SEEN, "this machine doesn't show whether its clock goes beyond the nominal one")
    values = {"turbo": turbo}
    if not turbo:
        return Line("turbo", Grade.OK, "off", values=values)
    said = "on: the clock depends on heat, and on what the other cores do"
    todo = (
        "if launches spread too far: echo 1 | sudo tee /sys/devices/system/cpu/intel_pstate/no_turbo, or echo 0 | sudo "
        "tee /sys/devices/system/cpu/cpufreq/boost"
    )
    return Line("turbo", Grade.WARNING, said, todo, values)


def _huge_pages(machine: Machine) -> Line:
    chosen = machine.fields.get("huge_pages")
    if chosen is None:
        return Line("huge pages", Grade.NOT_SEEN, "this machine doesn't show whether memory comes in huge pages")
    return Line("huge pages", Grade.OK, f"transparent ones: {chosen}", values={"huge_pages": chosen})


def _heat(watch: CpuWatch) -> Line:
    topic, values = "cpu heat", {"throttled": watch.throttled, "throttled_from_boot": watch.throttled_from_boot}
    if watch.throttled is None or watch.throttled_from_boot is None:
        return Line(topic, Grade.NOT_SEEN, "this machine doesn't count how often its cores are slowed down by heat")
    if watch.throttled:
        said = f"cores were slowed down {watch.throttled} times in {watch.seconds:.2g} s because they were hot"
        return Line(topic, Grade.BLOCKS, said, "cool it: fans, air, less load", values)
    if watch.throttled_from_boot:
        said = f"cores were slowed down {watch.throttled_from_boot} times since boot because they were hot, not now"
        return Line(topic, Grade.WARNING, said, "see to its cooling: rounds in which it happens are void", values)
    return Line(topic, Grade.OK, "no core was slowed down since boot", values=values)


def _steal(machine: Machine, watch: CpuWatch) -> Line:
    topic, values = "steal", {"stolen": watch.stolen, "stolen_from_boot": watch.stolen_from_boot}
    if watch.stolen is None or watch.stolen_from_boot is None:
        return Line(topic, Grade.NOT_SEEN, "this kernel doesn't tell what a hypervisor takes")
    virtual = machine.fields.get("virtualisation") != "none"
    said = f"the hypervisor took {watch.stolen:.1%} of a core now, {watch.stolen_from_boot:.1%} since boot"
    todo = "other guests of this host take their turn: ask for dedicated cores, or another host"
    if max(watch.stolen / STOLEN, watch.stolen_from_boot / STOLEN_FROM_BOOT) > 1:
        return Line(topic, Grade.WARNING, said, todo, values)
    if not virtual:
        return Line(topic, Grade.OK, "no hypervisor is below this kernel", values=values)
    if not watch.stolen_from_boot:
        said = "none was counted since boot, and not every hypervisor tells what it takes"
        return Line(topic, Grade.NOT_SEEN, said, values=values)
    return Line(topic, Grade.OK, said, values=values)


def _load(watch: CpuWatch) -> Line:
    topic = "cpu load"
    if watch.busy is None:
        return Line(topic, Grade.NOT_SEEN, "this kernel doesn't tell how busy its cores are")
    said = f"{watch.busy:.0%} of the cores, for {watch.seconds:.2g} s in which nothing of ours ran"
    values = {"busy": watch.busy, "seconds": watch.seconds}
    if watch.busy <= BUSY:
        return Line(topic, Grade.OK, said, values=values)
    grade = Grade.BLOCKS if watch.busy > OVERRUN else Grade.WARNING
    return Line(
        topic, grade, f"{said}: {watch.who}", "end it, or wait for its end, before anything is measured", values
    )
