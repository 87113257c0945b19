"""Two recordings side by side: what is paired, judged, refused and said of it."""

import math
import random
from dataclasses import replace

import pytest
from baseline_files import files
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_slmperf.core import gate
from pytest_slmperf.core.baselines.comparison import Meaning, compare
from pytest_slmperf.core.baselines.side import RecordedCase, Side, of_files
from pytest_slmperf.core.devices.board import BoardFacts
from pytest_slmperf.core.errors import UsageError
from pytest_slmperf.core.machine import Machine
from pytest_slmperf.core.metrics import CORE_PACE
from pytest_slmperf.core.sample import Measurement, Sample
from pytest_slmperf.core.verdict import Status

H100 = Machine("NVIDIA H100", "580.65", {"cores": 16, "kernel": "6.1.0", "hostname": "a", "gpu_uuid": "GPU-1"})
COUNTER = BoardFacts("counter", 700.0)
KEY = {
    "engine": "vllm",
    "engine_version": "0.11",
    "model": "opt-125m",
    "dtype": "float16",
    "threads": 1,
    "method": 1,
    "option.seed": 1,
    "prompt_tokens": 128,
}
THROUGHPUT, JOULES, LATENCY = "output_throughput", "joules_per_output_token", "p99_ttft_ms"


def sample(median=1000.0, launches=20, seed=0, spread=0.003):
    draw = random.Random(seed)
    return Sample.of([[median * math.exp(draw.gauss(0, spread))] * 3 for _ in range(launches)])


def recorded(batch=1, *, tolerances=None, machine=H100, key=None, when="2026-01-01T00:00:00Z", **fields):
    """A case with a throughput, unless other samples are given."""
    facts = {name: fields.pop(name) for name in ("versions", "commit") if name in fields}
    measured = {"samples": {THROUGHPUT: sample()}, **fields}
    measurement = Measurement(f"decode/opt-125m/batch={batch}", {**KEY, **(key or {})}, **measured)
    gated = {THROUGHPUT: 0.03} if tolerances is None else tolerances
    return RecordedCase("decode", measurement, machine, when, gated, **facts)


def a(*cases, **fields):
    return Side("old", cases or (recorded(),), **fields)


def b(*cases, **fields):
    return Side("new", cases or (recorded(samples={THROUGHPUT: sample(seed=9)}),), **fields)


def only(comparison):
    (row,) = comparison.rows
    return row


@pytest.mark.parametrize(
    ("median", "status", "passed"),
    [(1000.0, Status.UNCHANGED, True), (900.0, Status.REGRESSED, False), (1100.0, Status.IMPROVED, True)],
)
def test_b_is_judged_by_a(median, status, passed):
    """A loss is red and a gain is not, with the ratio of B to A and its interval."""
    found = compare(a(), b(recorded(samples={THROUGHPUT: sample(median, launches=14, seed=9)})))
    row = only(found)
    assert (row.verdict.status, found.passed) == (status, passed)
    assert row.effect.low < median / 1000 < row.effect.high
    assert row.verdict.effect.candidate_shape == "14×3"


def on_drifting_cores(first, launches, **fields):
    """A recording whose cores get slower and faster, and its throughput with them."""
    paces = [0.06 * math.sin(2 * math.pi * launch / 8) for launch in range(first, first + launches)]
    draw = random.Random(first)
    samples = {
        THROUGHPUT: Sample.of([[1000 * math.exp(draw.gauss(0, 0.005) - slow)] for slow in paces]),
        CORE_PACE: Sample.of([[150_000 * math.exp(slow)] for slow in paces]),
    }
    return recorded(samples=samples, tolerances={THROUGHPUT: 0.05}, **fields)


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, Status.UNCHANGED),
        ({"versions": {"python": "3.13.1"}}, Status.INCONCLUSIVE),
        ({"machine": replace(H100, device="NVIDIA H200")}, Status.INCONCLUSIVE),
    ],
)
def test_what_the_drift_of_the_cores_explains_is_taken_out(fields, status):
    """Of one Python on one machine: another takes another time for the piece of work."""
    found = compare(a(on_drifting_cores(0, 20)), b(on_drifting_cores(100, 16, **fields)))
    assert only(found).verdict.status is status


@pytest.mark.parametrize(
    ("asked", "of_a", "of_b", "taken"),
    [
        ({THROUGHPUT: 0.2}, {THROUGHPUT: 0.03}, {THROUGHPUT: 0.05}, 0.2),
        ({}, {THROUGHPUT: 0.03}, {THROUGHPUT: 0.05}, 0.03),
        ({}, {}, {THROUGHPUT: 0.05}, 0.05),
    ],
)
def test_whose_tolerance_counts(asked, of_a, of_b, taken):
    """The one that is given, or else A's, or else B's."""
    found = compare(a(recorded(tolerances=of_a)), b(recorded(tolerances=of_b)), asked)
    assert only(found).verdict.tolerance == taken


def test_what_nothing_gates_is_left_out_unless_asked_for():
    """It then has its ratio and no verdict, and where nothing is gated nothing has passed."""
    sides = a(recorded(tolerances={})), b(recorded(tolerances={}))
    assert compare(*sides).rows == ()
    found = compare(*sides, every=True)
    assert (only(found).verdict, found.passed) == (None, False)
    assert only(found).effect.ratio == 1


def test_a_latency_may_go_by_its_short_name():
    """`ttft_ms` is its median, here as in a suite."""
    side = recorded(tolerances={}, samples={"median_ttft_ms": sample(20.0)})
    assert only(compare(a(side), b(side), {"ttft_ms": 0.05})).metric.name == "median_ttft_ms"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"machine": replace(H100, driver="590.10")}, "driver: 580.65 → 590.10"),
        ({"machine": replace(H100, device="NVIDIA H200")}, "device: NVIDIA H100 → NVIDIA H200"),
        ({"machine": replace(H100, fields={**H100.fields, "power_limit_w": 500})}, "power_limit_w: absent → 500"),
        ({"key": {"engine": "transformers"}}, "engine: vllm → transformers"),
        ({"key": {"engine_version": "0.12"}}, "engine_version: 0.11 → 0.12"),
        ({"key": {"dtype": "int8"}}, "dtype: float16 → int8"),
        ({"key": {"threads": 2}}, "threads: 1 → 2"),
        ({"key": {"weights": "sha256:0"}}, "weights: absent → sha256:0"),
        ({"key": {"option.seed": 2}}, "option.seed: 1 → 2"),
        ({"key": {"setting.graphs": True}}, "setting.graphs: absent → true"),
        ({"key": {"planted_loss": 0.1}}, "planted_loss: absent → 0.1"),
    ],
)
def test_what_a_comparison_is_about_may_differ(change, field):
    """Device, driver, engine and the like are compared across, and said."""
    found = compare(a(), b(recorded(**change)))
    assert found.passed
    assert [(str(one), one.meaning) for one in found.changes] == [(field, Meaning.COMPARED)]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"key": {"model": "opt-1.3b"}}, "model: opt-125m → opt-1.3b"),
        ({"key": {"prompt_tokens": 64}}, "prompt_tokens: 128 → 64"),
        ({"key": {"method": 2}}, "method: 1 → 2"),
        ({"key": {"arrivals": "poisson"}}, "arrivals: absent → poisson"),
        ({"machine": Machine("simulated", "580.65", H100.fields)}, "device: NVIDIA H100 → simulated"),
    ],
)
def test_what_was_to_be_done_must_not_differ(change, field):
    """Another model, workload or method, or a simulation, is incomparable, and the line names the fields."""
    found = compare(a(), b(recorded(**change)))
    row = only(found)
    assert (row.verdict.status, row.verdict.reason, row.effect) == (Status.INCOMPARABLE, field, None)
    assert found.means == ()


def test_what_is_worth_a_note_comes_last_and_says_where():
    """Versions, the commit and lesser fields of the machine void nothing; a host's name is nothing at all."""
    machine = replace(H100, driver="590.10", fields={**H100.fields, "cores": 8, "kernel": "6.8.0", "hostname": "b"})
    first = recorded(1, versions={"torch": "2.10"}, commit="1"), recorded(4, versions={"torch": "2.10"}, commit="1")
    second = recorded(1, machine=machine, versions={"torch": "2.11"}), recorded(4, machine=machine)
    found = compare(a(*first), b(*second))
    both = tuple(one.measurement.case for one in first)
    assert [(str(one), one.cases) for one in found.changes] == [
        ("driver: 580.65 → 590.10", both),
        ("cores: 16 → 8", both),
        ("kernel: 6.1.0 → 6.8.0", both),
        ("version of torch: 2.10 → 2.11", both[:1]),
        ("commit: 1 → absent", both),
        ("version of torch: 2.10 → absent", both[1:]),
    ]


def test_two_versions_of_this_package_are_compared_with_a_note():
    """What measures is a part of how it was measured, and the key's `method` says where that makes it incomparable."""
    old, new = (recorded(versions={"pytest-slmperf": version}) for version in ("0.1.0", "0.2.0"))
    found = compare(a(old), b(new))
    assert [str(one) for one in found.changes] == ["version of pytest-slmperf: 0.1.0 → 0.2.0"]
    assert only(found).verdict.status is Status.UNCHANGED


def test_a_case_that_is_gone_is_red_and_a_new_one_is_said():
    """What A gates and B lacks is unmeasured; what only B has can't be judged."""
    found = compare(a(recorded(1), recorded(4)), b(recorded(1), recorded(8)))
    assert [(row.case, row.verdict.status) for row in found.rows] == [
        ("decode/opt-125m/batch=1", Status.UNCHANGED),
        ("decode/opt-125m/batch=4", Status.UNMEASURED),
    ]
    assert (found.gone, found.new) == (("decode/opt-125m/batch=4",), ("decode/opt-125m/batch=8",))
    assert not found.passed


def test_a_tolerance_that_is_given_gates_what_is_gone():
    """A case that A measured and B lacks is red by it, although A gates nothing."""
    found = compare(a(recorded(1), recorded(4, tolerances={})), b(recorded(1)), {THROUGHPUT: 0.03})
    assert [row.verdict.status for row in found.rows] == [Status.UNCHANGED, Status.UNMEASURED]


def test_a_case_that_was_left_out_says_why():
    """The reason of the run that didn't measure it is part of the verdict."""
    gone = "decode/opt-125m/batch=4"
    found = compare(a(recorded(1), recorded(4)), b(recorded(1), absent={gone: "skipped: too large"}))
    assert found.rows[1].verdict.reason == "B has no such case: skipped: too large"


@pytest.mark.parametrize(
    ("of_a", "of_b", "asked", "status", "reason"),
    [
        (
            {},
            {"samples": {}, "unmeasured": {THROUGHPUT: "no clock"}},
            {},
            Status.UNMEASURED,
            "no value of it: no clock",
        ),
        ({"samples": {}}, {}, {}, Status.NO_BASELINE, "A has no value of it"),
        ({"samples": {}, "tolerances": {}}, {}, {}, None, "A has no value of it"),
        ({"samples": {}, "tolerances": {}}, {}, {THROUGHPUT: 0.03}, Status.NO_BASELINE, "A has no value of it"),
        ({"void": "throttled"}, {}, {}, Status.VOID, "A: throttled"),
        ({}, {"void": "throttled", "samples": {}}, {}, Status.VOID, "B: throttled"),
    ],
)
def test_what_one_side_could_not_measure(of_a, of_b, asked, status, reason):
    """Nothing passes in silence: a gated metric without a value is red, and one that only B gates is said."""
    row = only(compare(a(recorded(**of_a)), b(recorded(**of_b)), asked))
    assert (None if row.verdict is None else row.verdict.status) == status
    assert reason in row.reason


@pytest.mark.parametrize("uuid", ["GPU-2", None])
def test_joules_of_another_board_are_not_gated(uuid):
    """Two boards of a model read up to 5 % apart, so that the row says why; the throughput is gated all the same."""
    samples = {THROUGHPUT: sample(), JOULES: sample(0.5)}
    gated = {THROUGHPUT: 0.03, JOULES: 0.03}
    old = recorded(samples=samples, tolerances=gated)
    new = recorded(
        samples={**samples, JOULES: sample(0.7)},
        tolerances=gated,
        machine=replace(H100, fields={**H100.fields, "gpu_uuid": uuid}),
    )
    throughput, joules = compare(a(old), b(new)).rows
    assert throughput.verdict.passed
    assert (joules.verdict, joules.reason) == (None, "another board, and their sensors differ by up to 5 %")
    assert joules.effect.ratio == pytest.approx(1.4)
    assert compare(a(old), b(replace(new, machine=H100))).rows[1].verdict.status is Status.REGRESSED


@pytest.mark.parametrize(("uuid", "gated"), [("GPU-1", True), ("GPU-2", False)])
def test_joules_are_of_the_boards_that_the_meter_named(uuid, gated):
    """They are stored with the recording, so that it doesn't take a machine that knows its board."""
    cpu = Machine("a CPU", "linux-6.1")
    sides = (
        recorded(samples={JOULES: sample(0.5)}, tolerances={JOULES: 0.03}, machine=cpu, boards={name: COUNTER})
        for name in ("GPU-1", uuid)
    )
    row = only(compare(*(Side(label, (one,)) for label, one in zip("ab", sides, strict=True))))
    assert (row.verdict is not None) is gated


@pytest.mark.parametrize(
    ("facts", "clock_mhz", "words"),
    [
        pytest.param(COUNTER, 1980.0, "", id="as it was"),
        pytest.param(replace(COUNTER, power_limit_w=500.0), 1980.0, "its power limit is 500 W", id="power limit"),
        pytest.param(replace(COUNTER, source="zeus"), 1980.0, "its joules come from zeus", id="source"),
        pytest.param(replace(COUNTER, power_capped=(0.4,) * 20), 1980.0, "held it back for 40.0%", id="power cap"),
        pytest.param(COUNTER, 1605.0, "its clock was 1,605 MHz", id="clock"),
        pytest.param(COUNTER, None, "its clock isn't told", id="clock not told"),
    ],
)
def test_joules_of_a_board_that_is_set_otherwise_are_void_as_in_the_gate(facts, clock_mhz, words):
    """The ratio is shown, and is no verdict."""

    def side(label, board, clock):
        board = replace(board, power_capped=board.power_capped or (0.0,) * 20)
        clocks = {"sm_clock_mhz": Sample.of([[clock]] * 20)} if clock else {}
        samples = {JOULES: sample(0.5), **clocks}
        return Side(label, (recorded(samples=samples, tolerances={JOULES: 0.03}, boards={"GPU-1": board}),))

    row = only(compare(side("a", COUNTER, 1980.0), side("b", facts, clock_mhz)))
    assert row.effect.ratio == pytest.approx(1)
    assert row.verdict.status is (Status.VOID if words else Status.UNCHANGED)
    assert words in row.reason


def test_engines_of_one_side_are_paired_by_name():
    """Where a side has a case of two engines, the same engine's are a pair; alone, any two are."""
    vllm, torch = recorded(), recorded(key={"engine": "transformers"})
    found = compare(a(vllm, torch), b(torch))
    assert [(row.verdict.status, row.reason) for row in found.rows] == [
        (Status.UNCHANGED, ""),
        (Status.UNMEASURED, "B has no such case on vllm"),
    ]
    assert compare(a(vllm), b(torch)).passed
    assert only(compare(a(vllm), b(torch))).engine == "vllm → transformers"
    assert [mean.engine for mean in compare(a(vllm, torch), b(vllm, torch)).means] == ["vllm", "transformers"]


def test_a_case_twice_on_one_side_is_wrong_usage():
    """Nobody could say which of the two was meant."""
    with pytest.raises(UsageError, match=r"new holds decode/opt-125m/batch=1 of the engine vllm twice"):
        compare(a(), b(recorded(), recorded()))


def test_nothing_in_common_is_wrong_usage():
    """What each side has is named."""
    with pytest.raises(UsageError, match=r"old has decode/opt-125m/batch=1; new has decode/opt-125m/batch=4"):
        compare(a(), b(recorded(4)))


@pytest.mark.parametrize(("name", "tolerance"), [(LATENCY, 0.03), (THROUGHPUT, 0), (THROUGHPUT, 1.5), ("speed", 0.03)])
def test_a_tolerance_of_nothing_is_wrong_usage(name, tolerance):
    """It is no fraction, no metric, or of what was not measured."""
    with pytest.raises(UsageError):
        compare(a(), b(), {name: tolerance})


def test_a_recording_beside_itself_is_unchanged_however_noisy():
    """The same launches on both sides say nothing of another day's; as noisy ones of another day they are doubted."""
    noisy = recorded(samples={THROUGHPUT: sample(spread=0.2)}, tolerances={THROUGHPUT: 0.01})
    row = only(compare(a(noisy), b(noisy)))
    assert (row.verdict.status, row.verdict.reason) == (Status.UNCHANGED, "the same recording")
    later = replace(noisy, recorded="2026-01-02T00:00:00Z")
    assert only(compare(a(noisy), b(later))).verdict.status is Status.INCONCLUSIVE


@settings(deadline=None, max_examples=30)
@given(files())
def test_a_baseline_file_beside_itself(file):
    """Whatever is stored, it is unchanged beside itself, all means are 1, and nothing differs."""
    side = of_files("a", [file])
    found = compare(side, side)
    assert {row.verdict.status for row in found.rows if row.verdict is not None} <= {Status.UNCHANGED}
    assert (found.gone, found.new, found.changes) == ((), (), ())
    assert all(mean.ratio == pytest.approx(1) for mean in found.means)


@settings(deadline=None, max_examples=30)
@given(st.floats(0.5, 2), st.integers(2, 24), st.integers(2, 24))
def test_the_other_way_round_everything_is_turned(ratio, before, after):
    """A judged by B has the inverse ratio, between the inverse bounds."""
    old, new = sample(launches=before, seed=1), sample(1000 * ratio, launches=after, seed=2)
    there = compare(a(recorded(samples={THROUGHPUT: old})), b(recorded(samples={THROUGHPUT: new})))
    back = compare(a(recorded(samples={THROUGHPUT: new})), b(recorded(samples={THROUGHPUT: old})))
    for one, other in ((only(there).effect, only(back).effect), (there.means[0], back.means[0])):
        assert one.ratio * other.ratio == pytest.approx(1)
        assert one.low * other.high == pytest.approx(1) or (one.low, other.high) == (0, math.inf)


def test_the_mean_is_of_the_ratios():
    """A case that gained and one that lost as much make none of both."""
    found = compare(
        a(recorded(1), recorded(4)),
        b(recorded(1, samples={THROUGHPUT: sample(1250)}), recorded(4, samples={THROUGHPUT: sample(800)})),
    )
    (mean,) = found.means
    assert mean.ratio == pytest.approx(1)
    assert (len(mean.cases), mean.whole_launches) == (2, True)


def test_few_launches_bound_no_mean():
    """A launch on each side gives a ratio, and no interval."""
    one = recorded(samples={THROUGHPUT: sample(launches=1)})
    (mean,) = compare(a(one), b(one)).means
    assert (mean.ratio, mean.low, mean.high) == (1, 0, math.inf)


def drawn_side(draw, ratio, launches, day):
    """Three cases that share the noise of their launches, 1 %, beside 0.5 % of their own."""
    most = max(launches)
    common = [day + draw.gauss(0, 0.01) for _ in range(most)]
    cases = []
    for batch, count in zip((1, 4, 16), launches, strict=True):
        values = [[1000 * batch * ratio * math.exp(common[i] + draw.gauss(0, 0.005))] for i in range(count)]
        cases.append(recorded(batch, samples={THROUGHPUT: Sample.of(values)}))
    return cases


@pytest.mark.parametrize("launches", [(16, 16, 16), (8, 12, 16)], ids=["whole launches", "unequal"])
def test_the_interval_of_a_mean_holds_the_truth(launches):
    """In at least 95 % of 400 recordings with a day of their own, less what so few may miss by chance."""
    draw = random.Random(20)
    held, widths = 0, []
    for _ in range(400):
        old = drawn_side(draw, 1.0, (20, 20, 20), 0.0)
        new = drawn_side(draw, 0.97, launches, draw.gauss(0, gate.DAY_SD))
        (mean,) = compare(a(*old), b(*new)).means
        held += mean.low <= 0.97 <= mean.high
        widths.append(math.log(mean.high / mean.low))
    assert held >= 0.93 * 400
    assert sum(widths) / 400 < 0.045, "an interval that holds everything says nothing"
