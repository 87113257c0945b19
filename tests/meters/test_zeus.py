"""Energy through the real Zeus, over the stand-in driver: what Zeus has of NVIDIA's GPUs, as it has of others.

Zeus opens its session of the driver once in a process, so that all scenarios here have the same boards.
"""

import pytest
from decoding import NS, steps

from pytest_slmperf.core.devices.edges import judge_trace
from pytest_slmperf.core.energy.window import SAMPLED_FLOOR, Energy, NoEnergy, Terms, energy_of
from pytest_slmperf.core.errors import MeterUnavailable
from pytest_slmperf.meters.nvml import NvmlMeter
from pytest_slmperf.meters.zeus import ZeusMeter, chip_mj, zeus_is_installed
from pytest_slmperf.run.metering import Metering, open_nvml, or_zeus

pynvml = pytest.importorskip("pynvml")
NEEDS_ZEUS = pytest.mark.skipif(not zeus_is_installed(), reason="Zeus is not installed")


@pytest.fixture
def zeus_driver(driver):
    """Makes a driver with two boards, and sees to it that a session is open, as Zeus believes it is."""

    def make(*statements):
        made = driver("boards 2", *statements)
        pynvml.nvmlInit()
        return made

    return make


def meter_of(one, *gpus):
    return ZeusMeter(gpus, clock=one.now_ns, sleep=one.sleep)


def energy(one, meter, seconds=3):
    """The joules of so many seconds of decode steps."""
    began_ns = one.now_ns()
    recording = meter.watch(seconds)
    return energy_of(recording.traces, steps(began_ns, one.now_ns()), Terms(lead_in_s=0.1, least_s=0.3))


@pytest.mark.skipif(zeus_is_installed(), reason="Zeus is installed")
def test_without_zeus_the_way_out_is_named():
    """The error says what to install: the package's own extra."""
    with pytest.raises(MeterUnavailable, match=r"pip install 'pytest-slmperf\[zeus\]'"):
        ZeusMeter((0,)).open()


@NEEDS_ZEUS
def test_its_counters_are_looked_at_until_they_move(zeus_driver):
    """So the window's length costs it nothing of what two plain reads lose; its stated error is larger all the same."""
    one = zeus_driver("power 0 400", "period 0.1 0.02", "delay DeviceGetTotalEnergyConsumption 0.003 0.3")
    meter = meter_of(one, 0, 1)
    facts = meter.open()
    assert (facts.name, facts.simulated, set(facts.sources.values())) == ("zeus", True, {"zeus"})
    assert facts.versions["zeus"]
    found = energy(one, meter)
    assert isinstance(found, Energy)
    assert (found.source, [board.board for board in found.boards]) == ("zeus", list(facts.boards))
    assert [board.joules / board.seconds for board in found.boards] == pytest.approx([400, 400], rel=0.005)
    error = found.boards[0].uncertainty
    assert error.sensor >= SAMPLED_FLOOR > error.edge
    meter.close()


@NEEDS_ZEUS
def test_a_board_tells_its_limit_and_temperature_and_what_it_does_not_tell(zeus_driver):
    """Zeus shows no processes, and what begins to fail is untold from then on."""
    one = zeus_driver("power_limit 0 500", "temperature 0 61", "fail DeviceGetTemperatureV UNKNOWN 5")
    meter = meter_of(one, 1)
    (board,) = meter.open().boards
    state = meter.states()[board]
    assert (state.power_limit_w, state.temperature_c, set(state.untold)) == (500, 61, {"processes"})
    one.sleep(5)
    assert set(meter.states()[board].untold) == {"processes", "temperature"}


@NEEDS_ZEUS
@pytest.mark.parametrize(("fault", "guard"), [("lost 2", "unreadable"), ("reset 2", "reset"), ("stuck 2 20", "stuck")])
def test_what_zeus_takes_for_joules_and_is_none_is_void(zeus_driver, fault, guard):
    """Of its own it answers a reset with negative joules."""
    one = zeus_driver("power 0 400", fault)
    meter = meter_of(one, 0)
    meter.open()
    (trace,) = meter.watch(4).traces
    finding = judge_trace(trace)
    assert finding
    assert finding.guard == guard
    assert isinstance(energy_of([trace], steps(NS, 5 * NS)), NoEnergy)


@NEEDS_ZEUS
@pytest.mark.parametrize(
    ("gpu", "statement", "reason"),
    [
        (0, "fail DeviceGetTotalEnergyConsumption NOT_SUPPORTED", "Not Supported"),
        (2, "power 0 400", "there is no GPU 2: Zeus sees 2"),
    ],
)
def test_a_gpu_without_joules_says_why(zeus_driver, gpu, statement, reason):
    """In Zeus's own words where the board doesn't count, in ours where there is no such board."""
    one = zeus_driver(statement)
    with pytest.raises(MeterUnavailable, match=f"no joules through Zeus: {reason}"):
        meter_of(one, gpu).open()


@NEEDS_ZEUS
def test_a_machine_that_is_no_chip_says_so():
    """Without a GPU to ask it looks for a system on a chip, and says that there is none."""
    with pytest.raises(MeterUnavailable, match="No observable SoC was found"):
        ZeusMeter().open()


@NEEDS_ZEUS
def test_a_chip_counts_as_a_whole_and_no_part_twice():
    """Jetson's sum holds its parts; Apple has none, and some of its parts hold others."""
    from zeus.device.soc.apple import AppleSiliconMeasurement  # noqa: PLC0415
    from zeus.device.soc.jetson import JetsonMeasurement  # noqa: PLC0415

    assert chip_mj(JetsonMeasurement(cpu_energy_mj=10.0, gpu_energy_mj=20.0, total_energy_mj=45.0)) == 45
    apple = AppleSiliconMeasurement(cpu_total_mj=10, efficiency_cores_mj=[1, 2], dram_mj=5, gpu_mj=20)
    assert chip_mj(apple) == 35
    assert chip_mj(JetsonMeasurement(gpu_energy_mj=20.0)) is None


@NEEDS_ZEUS
def test_it_is_asked_where_the_driver_has_no_joules(zeus_driver):
    """The driver's own meter finds none before this time, and Zeus does after it."""
    zeus_driver(
        "power 0 400",
        *(f"fail {symbol} NOT_SUPPORTED 0 3" for symbol in ("DeviceGetTotalEnergy*", "field:185", "DeviceGetPower*")),
        "delay DeviceGetEnforcedPowerLimit 3",
    )
    metering = open_nvml(window_s=1, lead_in_s=0.1)
    assert (metering.source.source, metering.source.missing, metering.source.simulated) == ("zeus", "", True)
    assert metering.not_of("cuda") == ""
    metering.close()


@NEEDS_ZEUS
def test_it_is_not_asked_where_the_driver_has_them(zeus_driver):
    """Its error is larger, so the driver's own counter comes first."""
    zeus_driver("power 0 400")
    metering = open_nvml(window_s=1, lead_in_s=0.1)
    assert metering.source.source == "counter"
    metering.close()


@NEEDS_ZEUS
def test_where_nobody_has_joules_all_say_why(zeus_driver):
    """The driver, Zeus and its search for a chip each have their reason in one line."""
    zeus_driver("power 0 400")
    metering = or_zeus(Metering(NvmlMeter((7,)), window_s=1, lead_in_s=0.1), gpus=(7,))
    missing = metering.source.missing
    metering.close()
    assert metering.source.source is None
    assert [part in missing for part in ("there is no GPU 7", "Zeus sees 2", "No observable SoC")] == [True] * 3


@NEEDS_ZEUS
def test_so_do_they_where_the_driver_knows_the_board_and_no_joules_of_it(zeus_driver):
    """The board's own reason comes first."""
    refused = (f"fail {what} NOT_SUPPORTED" for what in ("DeviceGetTotalEnergy*", "field:185", "DeviceGetPower*"))
    zeus_driver("power 0 400", *refused)
    metering = open_nvml(window_s=1, lead_in_s=0.1)
    missing = metering.source.missing
    metering.close()
    found = [missing.find(part) for part in ("no counter, since", "no joules through Zeus", "No observable SoC")]
    assert -1 < found[0] < found[1] < found[2]
