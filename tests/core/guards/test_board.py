"""Guards of a board: each cause, what it does to the joules, and whom it names."""

import json
from dataclasses import asdict, replace

import pytest

from pytest_slmperf.core.devices.board import (
    MIB,
    BoardFacts,
    BoardRound,
    BoardSample,
    BoardState,
    Effect,
    beside,
    mps_serves,
    of_all_launches,
    seen_processes,
)
from pytest_slmperf.core.energy.same_joules import (
    another_board,
    another_clock,
    another_power_cap,
    another_setting,
    joules_apart,
)
from pytest_slmperf.core.guards.board import judge_board, power_cap_share, void
from pytest_slmperf.core.verdict import Status

NS = 1_000_000_000
COUNTED = dict.fromkeys(("sw_power_cap", "sync_boost", "sw_thermal", "hw_thermal", "power_brake"), 0)
ENGINE = {500: "python"}
FREE = BoardState(
    uuid="GPU-a",
    at_ns=0,
    power_limit_w=700.0,
    sm_clock_mhz=1980,
    temperature_c=55,
    throttled_ns=COUNTED,
    uncorrected_ecc_errors=0,
    utilisation=0.0,
    memory_used_bytes=4 * MIB,
    processes={},
    mig=False,
    persistence=True,
)
SAMPLE = BoardSample(5 * NS, 1980, 55, frozenset(), 0.9, 2048 * MIB, ENGINE)


def seen(*, idle=None, before=None, after=None, samples=4, **sample):
    """A quiet round of 5 s with what is said changed in it."""
    return BoardRound(
        idle=replace(FREE, **(idle or {})),
        before=replace(FREE, at_ns=10 * NS, processes=ENGINE, **(before or {})),
        after=replace(FREE, at_ns=15 * NS, **{"processes": ENGINE, **(after or {})}),
        during=tuple(replace(SAMPLE, **sample) for _ in range(samples)),
    )


UNSEEN = {"processes": None, "untold": {"processes": "this user may not ask for it"}}


def test_a_quiet_round_has_no_finding():
    """What is as it was, with nobody but the engine there, is neither void nor marked nor noted."""
    assert judge_board(seen(), power_limit_w=700) == ()


@pytest.mark.parametrize(
    ("one", "guard", "reason"),
    [
        pytest.param(seen(idle={"processes": {7: "train.py"}}), "foreign", "train.py (pid 7) was on", id="before"),
        pytest.param(seen(after={"processes": {**ENGINE, 8: ""}}), "foreign", "a process (pid 8) came", id="after"),
        pytest.param(seen(processes={**ENGINE, 9: "x"}), "foreign", "x (pid 9) came in the middle", id="in the middle"),
        pytest.param(
            seen(idle={**UNSEEN, "memory_used_bytes": 9000 * MIB}), "foreign", "9,000 MiB were in use", id="memory"
        ),
        pytest.param(seen(idle={**UNSEEN, "utilisation": 0.4}), "foreign", "40% busy before our own", id="utilisation"),
        pytest.param(
            seen(after={"throttled_ns": {**COUNTED, "hw_thermal": NS // 2}}), "throttled", "hot, for 10.0%", id="hot"
        ),
        pytest.param(
            seen(after={"throttled_ns": {**COUNTED, "power_brake": NS}}), "throttled", "power brake", id="power brake"
        ),
        pytest.param(
            seen(idle={"throttled_ns": {}}, before={"throttled_ns": {}}, throttles=frozenset({"sw_thermal"})),
            "throttled",
            "in 4 of 4 looks",
            id="mask",
        ),
        pytest.param(seen(throttles=frozenset({"hw_slowdown"})), "throttled", "two looks in a row", id="hw slowdown"),
        pytest.param(seen(after={"uncorrected_ecc_errors": 2}), "ecc", "2 uncorrected", id="ecc"),
        pytest.param(seen(after={"xids": (79,)}), "xid", "Xid 79", id="xid"),
        pytest.param(seen(after={"uuid": "GPU-b"}), "board", "began on GPU-a and ended on GPU-b", id="board"),
        pytest.param(seen(utilisation=0.0), "board", "0% busy in all of 4 looks", id="unused"),
        pytest.param(seen(after={"power_limit_w": 500.0}), "power limit", "500 W after the round, not 700", id="limit"),
        pytest.param(seen(after={"temperature_c": 70}), "temperature", "from 55 to 70 °C", id="temperature"),
    ],
)
def test_what_voids_names_its_culprit(one, guard, reason):
    """Each cause of wrong joules, from a stranger to heat, voids the round and is told with what was seen of it."""
    finding = void(judge_board(one))
    assert finding is not None
    assert finding.guard == guard
    assert reason in finding.reason


def test_another_power_limit_than_when_the_meter_was_opened_voids():
    """Also where the limit was changed before the round began, so that it didn't change in it."""
    found = void(judge_board(seen(before={"power_limit_w": 500.0}), power_limit_w=700))
    assert "500 W before the round, not 700 W" in found.reason


@pytest.mark.parametrize(
    ("one", "effect", "guard"),
    [
        pytest.param(seen(before={"persistence": False}), Effect.MARKED, "persistence", id="persistence"),
        pytest.param(seen(after={"temperature_c": 59}), Effect.MARKED, "temperature", id="temperature"),
        pytest.param(seen(before={"mig": True}), Effect.NOTE, "mig", id="mig"),
        pytest.param(
            seen(after={"throttled_ns": {**COUNTED, "sw_power_cap": NS}}), Effect.MARKED, "power cap", id="power cap"
        ),
        pytest.param(seen(idle=UNSEEN), Effect.MARKED, "blind", id="processes unseen"),
        pytest.param(seen(after=UNSEEN), Effect.MARKED, "blind", id="processes unseen later"),
        pytest.param(seen(before={"throttled_ns": {}}), Effect.NOTE, "blind", id="old driver"),
        pytest.param(
            seen(before={"throttled_ns": {}}, throttles=None), Effect.MARKED, "blind", id="nothing of throttling"
        ),
    ],
)
def test_what_is_marked_or_noted_voids_nothing(one, effect, guard):
    """What makes joules less sure without making them wrong is told beside them, and they stand."""
    findings = judge_board(one)
    assert [(finding.effect, finding.guard) for finding in findings] == [(effect, guard)]
    assert void(findings) is None


@pytest.mark.parametrize("quiet", ["", "/usr/bin/nvidia-cuda-mps-server"])
def test_the_mps_server_and_processes_of_ours_are_no_strangers(quiet):
    """The server through which processes share a board computes nothing of its own, and ours are the load."""
    one = seen(idle={"processes": {40: quiet}}, after={"processes": {**ENGINE, 40: quiet, 77: "worker"}})
    assert void(judge_board(one, ours={77} if quiet else {40, 77})) is None


@pytest.mark.parametrize(
    ("names", "daemon", "serves"),
    [
        (["python", "/usr/bin/nvidia-cuda-mps-server"], False, True),
        (["python"], True, True),
        (["python"], False, False),
        (None, True, True),
        (None, False, None),
    ],
)
def test_mps_is_told_by_its_server_or_its_daemon_or_not_at_all(names, daemon, serves):
    """Where the processes can't be seen and no daemon runs, whether MPS serves is unknown, not denied."""
    assert mps_serves(names, daemon=daemon) is serves


def test_one_look_at_a_changing_clock_is_no_slowdown():
    """The mask of a board that only changes its clock may show a slowdown for a moment: two looks in a row make one."""
    one = seen()
    first, *others = one.during
    one = replace(one, during=(replace(first, throttles=frozenset({"hw_slowdown"})), *others))
    assert judge_board(one) == ()


def test_what_can_not_be_seen_is_said_with_the_reason_and_what_stood_in():
    """Where its processes are hidden, the board's memory and utilisation speak for it, or nothing does."""
    (finding,) = judge_board(seen(idle=UNSEEN))
    assert "this user may not ask for it" in finding.reason
    assert "its memory and utilisation said that it was free" in finding.reason
    (finding,) = judge_board(seen(idle={**UNSEEN, "memory_used_bytes": None, "utilisation": None}))
    assert "nothing stood in" in finding.reason


def test_time_under_the_power_limit_that_is_not_told_is_said_to_be_unseen():
    """Else it would be compared with none in silence."""
    counted = {"throttled_ns": {kind: 0 for kind in COUNTED if kind != "sw_power_cap"}}
    (finding,) = judge_board(seen(before=counted, after=counted, throttles=None))
    assert (finding.guard, finding.effect) == ("blind", Effect.MARKED)
    assert "sw_power_cap" in finding.reason


def test_errors_that_a_board_does_not_report_are_said_to_be_unseen():
    """No error seen on a board that counts none is a note, with the reason for each kind of error."""
    untold = {"ECC errors": "this board does not support it", "Xid events": "this user may not ask for it"}
    (finding,) = judge_board(seen(after={"untold": untold}))
    assert finding.effect is Effect.NOTE
    assert "ECC errors (this board does not support it) and Xid events (this user may not" in finding.reason


def test_a_clock_that_can_not_be_read_is_compared_with_none_and_said():
    """A round whose clock isn't told is not void, and says that it was blind to it."""
    (finding,) = judge_board(seen(sm_clock_mhz=None))
    assert finding.guard == "blind"


@pytest.mark.parametrize("pid", [0, 2**32 - 1, 2**31])
def test_a_list_with_a_nonsense_id_is_no_list(pid):
    """Some drivers fill a list wrongly: its processes then count as unseen, and none of them as a stranger."""
    assert seen_processes({12: "python", pid: ""}) is None
    assert seen_processes({12: "python"}) == {12: "python"}


def test_the_power_cap_is_a_share_of_the_round_to_be_compared_with_the_baselines():
    """It is of the counted time, else of the looks at the mask, and unknown where the driver tells neither."""
    assert power_cap_share(seen(after={"throttled_ns": {**COUNTED, "sw_power_cap": NS}})) == pytest.approx(0.2)
    uncounted = {"throttled_ns": {}}
    assert power_cap_share(seen(before=uncounted, throttles=frozenset({"sw_power_cap"}))) == 1
    assert power_cap_share(seen(before=uncounted, throttles=None)) is None


def test_a_time_that_goes_back_is_no_share_of_the_round_and_is_marked():
    """The driver was reloaded amid the round: the looks at the mask stand in, and no share is below 0."""
    one = seen(before={"throttled_ns": {**COUNTED, "sw_power_cap": 25 * NS}}, throttles=frozenset({"sw_power_cap"}))
    assert power_cap_share(one) == 1
    assert power_cap_share(replace(one, during=())) is None
    marked = [finding.reason for finding in judge_board(one) if finding.guard == "blind"]
    assert marked == ["its time of sw_power_cap went back in the middle: the driver was reloaded"]


def test_joules_of_another_board_are_reported_and_not_gated():
    """Two boards of one model may differ, so the reason goes by which board it was."""
    assert another_board(["GPU-a"], ["GPU-a"]) is None
    assert "reported and not gated" in another_board(["GPU-a"], ["GPU-b"])


def test_beside_the_joules_are_means_of_what_was_told():
    """A look at which one figure lacks still counts for the others, and without a look there is no figure."""
    samples = [
        replace(SAMPLE, utilisation=0.5, temperature_c=None, memory_clock_mhz=2619),
        replace(SAMPLE, memory_used_bytes=4096 * MIB),
    ]
    assert beside(samples) == {
        "gpu_utilisation": pytest.approx(0.7),
        "gpu_memory_used_bytes": 3072 * MIB,
        "peak_gpu_memory_used_bytes": 4096 * MIB,
        "sm_clock_mhz": 1980,
        "memory_clock_mhz": 2619,
        "gpu_temperature_c": 55,
    }
    assert beside([]) == {}


BOARD = {"GPU-a": BoardFacts("counter", 700.0)}


@pytest.mark.parametrize(
    ("there", "words"),
    [
        pytest.param({"GPU-a": BoardFacts("counter", 600.0)}, "limit is 700 W, and was 600 W", id="power limit"),
        pytest.param({"GPU-a": BoardFacts("power samples", 700.0)}, "from counter, and the baseline's", id="source"),
    ],
)
def test_joules_of_a_board_that_was_set_otherwise_are_not_compared(there, words):
    """Another power limit or another source of the joules is said with both values."""
    assert words in another_setting(BOARD, there)


@pytest.mark.parametrize("there", [BOARD, {"GPU-a": BoardFacts("counter", None)}, {"GPU-b": BOARD["GPU-a"]}])
def test_joules_of_a_board_as_it_was_are_compared(there):
    """What the baseline doesn't know of a board, and a board that it doesn't have, differ in no setting."""
    assert another_setting(BOARD, there) is None


def capped(*shares):
    return {"GPU-a": BoardFacts("counter", 700.0, power_capped=shares)}


NEAR_ITS_LIMIT = tuple(0.2 + 0.1 * (-1) ** launch for launch in range(20))


@pytest.mark.parametrize(
    ("now", "was", "apart"),
    [
        pytest.param(capped(0.3, 0.32), capped(*[0.0] * 20), "for 31.0% of the rounds, and for 0.0% of the", id="more"),
        pytest.param(capped(0.0), capped(*[0.4] * 20), "for 0.0% of the rounds, and for 40.0% of the", id="less"),
        pytest.param(capped(0.04), capped(*[0.0] * 20), None, id="within the bound"),
        pytest.param(capped(0.45, 0.3), capped(*NEAR_ITS_LIMIT), None, id="as far as launches scatter"),
        pytest.param(capped(0.6, 0.5), capped(*NEAR_ITS_LIMIT), "for 55.0% of the rounds", id="beyond that"),
        pytest.param(capped(), capped(*[0.4] * 20), None, id="not told"),
        pytest.param(capped(0.4), {"GPU-b": BoardFacts("counter")}, None, id="another board"),
    ],
)
def test_time_under_the_power_limit_is_compared_with_the_baselines(now, was, apart):
    """Within a twentieth of the rounds, and as far as launches scatter."""
    found = another_power_cap(now, was)
    assert (found is None) is (apart is None)
    assert found is None or apart in found


def test_what_all_launches_say_of_a_board_holds_every_launchs_share_and_comes_back_from_json():
    """A launch that told nothing of the board adds nothing, and a baseline file loses none of it."""
    facts = of_all_launches([capped(0.1), {}, capped(0.2)])
    assert facts == capped(0.1, 0.2)
    assert BoardFacts.of(json.loads(json.dumps(asdict(facts["GPU-a"])))) == facts["GPU-a"]


KNOWN = {"GPU-a": BoardFacts("counter", 700.0, power_capped=(0.1,))}


@pytest.mark.parametrize(
    ("here", "there", "clocks", "status", "words"),
    [
        pytest.param(KNOWN, KNOWN, (1980, 1980), None, "", id="as it was"),
        pytest.param(BOARD, BOARD, (None, None), None, "", id="never told"),
        pytest.param(KNOWN, BOARD, (1980, None), None, "", id="told only now"),
        pytest.param({"GPU-b": KNOWN["GPU-a"]}, KNOWN, (1, 2), Status.INCOMPARABLE, "not gated", id="another board"),
        pytest.param(KNOWN, KNOWN, (1605, 1980), Status.VOID, "1,605 MHz", id="another clock"),
        pytest.param(KNOWN, KNOWN, (None, 1980), Status.VOID, "its clock isn't told, and was 1,980", id="no clock"),
        pytest.param(BOARD, KNOWN, (1, 1), Status.VOID, "isn't told, and was for 10.0% of the", id="no share"),
        pytest.param(
            {"GPU-a": replace(KNOWN["GPU-a"], power_limit_w=None)},
            KNOWN,
            (1, 1),
            Status.VOID,
            "its power limit isn't told, and was 700 W",
            id="no limit",
        ),
        pytest.param(capped(0.9), KNOWN, (1, 1), Status.VOID, "90.0% of the rounds", id="held back"),
    ],
)
def test_joules_are_compared_where_everything_that_was_told_is_told_and_is_as_it_was(
    here, there, clocks, status, words
):
    """What a driver doesn't tell any more may have changed, and nobody would know."""
    found = joules_apart(here, there, clocks)
    assert (found and found[0]) == status
    assert found is None or words in found[1]


def test_a_clock_may_differ_by_one_percent():
    """A larger difference is said with both clocks in MHz."""
    assert another_clock(1980, 1970) is None
    assert another_clock(1605, 1980) == "its clock was 1,605 MHz in the mean, and 1,980 MHz for the baseline"
