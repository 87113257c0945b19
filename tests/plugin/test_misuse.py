"""Comparisons that would let a regression pass: each is red, and says what to write."""

import pytest
from projects import SLOWED, SUITE

RIGHT = "point.output_throughput >= point.baseline.output_throughput"
NEVER_ASKED = "write `assert` before it"

MISUSES = [
    ("assert value == base", f"never equal to anything: compare it, as in {RIGHT}"),
    ("assert not value != base", f"always differs a little: compare it, as in {RIGHT}"),
    ("assert value <= base", "output_throughput: higher is better, so <= can't see a loss"),
    ("assert value > base", f"a strict comparison asks for more than no loss: write {RIGHT}"),
    ("assert not value < base", f"a strict comparison asks for more than no loss: write {RIGHT}"),
    ("assert value", f"output_throughput has no truth: compare it, as in {RIGHT}"),
    ("assert base", f"output_throughput has no truth: compare it, as in {RIGHT}"),
    ("assert not (value >= base)", "regressed: decode/opt-125m/batch=16 output_throughput"),
    ("assert value >= base or True", "regressed: decode/opt-125m/batch=16 output_throughput"),
    ("assert any([value >= base, True])", "regressed: decode/opt-125m/batch=16 output_throughput"),
    ("assert all([value >= base])", "regressed: decode/opt-125m/batch=16 output_throughput"),
    ("assert base <= value", "regressed: decode/opt-125m/batch=16 output_throughput"),
    ("if value >= base: pass", "regressed: decode/opt-125m/batch=16 output_throughput"),
    ("value >= base", NEVER_ASKED),
    ("assert (value >= base, 'no loss')", NEVER_ASKED),
    ("assert (value >= base) is not False", NEVER_ASKED),
    ("assert not (value >= base).passed", NEVER_ASKED),
    ("assert value == pytest.approx(1000, rel=9)", "never equal to anything"),
    ("assert pytest.approx(1000, rel=9) == value", "never equal to anything"),
    ("assert max(value, base) is value", "a strict comparison asks for more"),
    ("assert sorted([value, base])", "a strict comparison asks for more"),
    ("assert value >= 0.5 * base", "what may be lost stands in the sweep's gate={…}, so write"),
    ("assert value / base >= 0.5", "what may be lost stands in the sweep's gate={…}, so write"),
    ("assert float(value) > 1", "a plain number, which no gate looks at, is .median"),
    ("assert value >= decode[1].baseline.output_throughput", "is compared with its own baseline"),
    ("assert value >= point.baseline.ttft_ms", "is compared with its own baseline"),
    ("assert value >= decode[16].output_throughput", "with its baseline or a number, not with Value"),
    ("assert base >= 1", "a baseline is compared with a measured value, not with int"),
    ("assert value >= None", "with its baseline or a number, not with NoneType"),
    ("assert value >= True", "with its baseline or a number, not with bool"),
    ("assert value <= float('inf')", "is compared with inf, which is no limit"),
    ("assert point.itl_ms <= point.baseline.itl_ms", "add it to the sweep, as in gate={'itl_ms': 0.03}"),
    ("assert point.ttft_ms.p99 <= 200", "add it to the sweep, as in percentiles=[99]"),
    ("assert point.output_througput >= 1", "did you mean output_throughput?"),
    ("try: assert value >= base\n    except AssertionError: pass", "the test caught its error; leave out"),
    ("assert decode.knee", "a knee has no truth: compare it with the stored one"),
    ("assert decode.knee == decode.baseline.knee", "write result.knee.unchanged_from(result.baseline.knee)"),
    ("assert decode.knee.unchanged_from(decode.knee)", "write result.knee.unchanged_from(result.baseline.knee)"),
    ("decode.knee.unchanged_from(decode.baseline.knee)", NEVER_ASKED),
    ("assert decode[4].output_throughput >= 1", "decode/opt-125m/batch=4 was not measured in this run"),
]  # fmt: skip

TEST = """
def test_misuse_{number:02d}(decode):
    point = decode[16]
    value, base = point.output_throughput, point.baseline.output_throughput
    {code}
"""


@pytest.fixture(scope="module")
def sections(module_project):
    """What a run in which the engine lost a fifth says of every misuse, by its number."""
    tests = "".join(TEST.format(number=number, code=code) for number, (code, _) in enumerate(MISUSES))
    module_project.write("test_suite.py", SUITE + tests.replace("try: assert", "try:\n        assert"))
    run = module_project.apart("-k", "misuse", "-W", "ignore::pytest.PytestAssertRewriteWarning", engine=SLOWED)
    _, _, failures = run.partition("= FAILURES =")
    parts = failures.split("_ test_misuse_")[1:]
    return {int(part[:2]): part.partition("\n=====")[0] for part in parts}


@pytest.mark.parametrize("number", range(len(MISUSES)), ids=[code.partition("\n")[0] for code, _ in MISUSES])
def test_no_misuse_turns_red_into_green(sections, number):
    """Whatever else a suite does with a value, a verdict or a knee is red, in our words, without our frames."""
    assert number in sections, "it passed"
    assert MISUSES[number][1] in sections[number]
    assert "pytest_slmperf/" not in sections[number]


def test_a_verdict_may_be_used_as_a_condition(project):
    """Where nothing is lost, a verdict is simply true, and whoever asks it has asserted it."""
    condition = """
@DECODE.at(16)
def test_condition(decode):
    point = decode[16]
    if point.output_throughput >= point.baseline.output_throughput:
        return
    raise ValueError
"""
    project.write("test_suite.py", SUITE + condition)
    project.gate("-k", "test_condition").assert_outcomes(passed=2, deselected=4)


def test_an_expected_failure_stays_one(project):
    """A regression that is known may be marked xfail, as any test."""
    project.write(
        "test_suite.py",
        SUITE.replace("@DECODE.each\ndef test_first", "@pytest.mark.xfail\n@DECODE.each\ndef test_first"),
    )
    result = project.gate("-k", "test_first", engine=SLOWED)
    result.assert_outcomes(xfailed=2, passed=1, deselected=2)
