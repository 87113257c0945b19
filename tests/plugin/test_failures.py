"""How a failure is shown beside those before it."""

from dataclasses import replace

import pytest

from pytest_slmperf.core.verdict import Effect, Status, Verdict
from pytest_slmperf.plugin.failures import Failures

EFFECT = Effect(100.0, 80.0, 0.8, 0.7, 0.9, 0.05, "20×4", "8×4")
VOID = Verdict(Status.VOID, "output_throughput", "tok/s", True, case="decode/batch=1", reason="contended: somebody")
OTHER = replace(VOID, metric="median_ttft_ms", unit="ms")


def shown(*verdicts, whole=False, nodeids=("first", "second")):
    """How the failures of tests that asserted these look."""
    failures = Failures(whole=whole)
    reports = []
    for nodeid, verdict in zip(nodeids, verdicts, strict=True):
        report = pytest.TestReport(nodeid, ("", 0, ""), {}, "failed", verdict.message(), "call")
        failures.after(report, AssertionError(verdict.message()), verdict)
        reports.append(report.longrepr)
    return reports


def test_another_metric_of_a_void_case_names_the_test_that_was_told_why():
    """In one line, with the case and the metric that it asserts."""
    assert shown(VOID, OTHER) == [
        VOID.message(),
        "AssertionError: void: decode/batch=1 median_ttft_ms - the same as in first",
    ]


@pytest.mark.parametrize(
    ("other", "of"),
    [
        pytest.param(OTHER, {"whole": True}, id="--full-trace"),
        pytest.param(OTHER, {"nodeids": ("first", "first")}, id="the same test again"),
        pytest.param(replace(OTHER, reason="stolen"), {}, id="another reason"),
        pytest.param(replace(OTHER, effect=EFFECT), {}, id="with figures of its own"),
        pytest.param(replace(OTHER, status=Status.INCONCLUSIVE), {}, id="not void"),
    ],
)
def test_what_is_told_by_no_other_test_is_told_in_full(other, of):
    """Whatever has words of its own, and wherever all of them were asked for."""
    assert shown(VOID, other, **of) == [VOID.message(), other.message()]
