"""Replicas at the knee against one instance at its largest batch (arXiv 2503.08311, Figure 13 and Table IV).

A batch is that of each replica. One instance has all of the device, too: on a CPU, a thread for each core.
"""

import pytest

from pytest_slmperf import StaticBatch, Sweep

AT_KNEE = Sweep(
    "replicas-at-knee",
    StaticBatch(prompt_tokens=16, output_tokens=16),
    model=["tiny-2x128"],
    batch_size=[32, 64],
    replicas=[1, 2],
    threads=[1, 2],
    options={"pool": ["processes"]},
    per_replica=True,
    gate={"output_throughput": 0.05},
)
NEAR = 0.05
"""Share of the throughput by which both may differ and still be as good."""


@pytest.fixture(scope="module")
def measured(slmperf, slm_engine):
    """Every case of the sweep, measured once."""
    return slmperf.measure(AT_KNEE, slm_engine)


@AT_KNEE.each
def test_throughput(measured, model, replicas, threads, pool, batch_size):
    """No variant generates fewer tokens a second than its baseline."""
    point = measured.of(model, replicas=replicas, threads=threads, pool=pool)[batch_size]
    assert point.output_throughput >= point.baseline.output_throughput


def test_replicas_at_the_knee_serve_as_much(measured):
    """Several replicas with smaller batches generate as many tokens a second as one instance with the largest."""
    for model in measured.models:
        points = [point for curve in measured.curves for point in curve if point.model == model]
        alone = [point for point in points if point.coordinates["replicas"] == 1]
        largest = max(point.at for point in alone)
        one = max((point for point in alone if point.at == largest), key=throughput)
        several = (point for point in points if point.coordinates["replicas"] > 1 and point.at < largest)
        assert max(several, key=throughput).output_throughput >= (1 - NEAR) * throughput(one)


def throughput(point):
    """Tokens a second, the median of the launches."""
    return point.output_throughput.median
