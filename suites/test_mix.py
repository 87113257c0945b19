"""Different models side by side on one device, each within its own limits: future work of the paper (arXiv 2404.03353).

Batches go to any engine. Users who come at a rate take one that requests can be sent to one by one.
"""

import pytest

from pytest_slmperf import Beside, OpenLoop, Slo, StaticBatch, Sweep

LENGTHS = {"prompt_tokens": 16, "output_tokens": 32}
LIMITS = Slo(ttft_ms=2000, tpot_ms=200)
TOKENS_READ = 5
"""Per second, of somebody who reads."""
MIX = Sweep(
    "mix",
    StaticBatch(**LENGTHS),
    model=["tiny-2x128"],
    batch_size=[8],
    beside=[None, Beside("tiny-4x256", batch_size=4, **LENGTHS)],
    gate={"output_throughput": 0.05, "tpot_ms": 0.1},
    percentiles=[90],
)
USERS = Sweep(
    "mix-of-users",
    OpenLoop(**LENGTHS),
    model=["tiny-2x128"],
    request_rate=[8],
    beside=[None, Beside("tiny-4x256", request_rate=4, slo=LIMITS, **LENGTHS)],
    slo=LIMITS,
    gate={"goodput_share": 0.05, "tpot_ms": 0.1},
)


def others(point):
    """Those that run beside the model, with what they serve at a time: `4`, or at a rate `2.5rps`."""
    beside = point.coordinates["beside"]
    loads = [] if beside == "none" else [one.rpartition("@")[2] for one in beside.split("+")]
    return [(f"beside_{number}", load) for number, load in enumerate(loads, 1)]


@pytest.fixture(scope="module")
def mix(slmperf, slm_engine):
    """The model alone, and beside others, in batches."""
    return slmperf.measure(MIX, slm_engine)


@pytest.fixture(scope="module")
def users(slmperf, slm_engine):
    """The model alone, and beside others, each with users of its own."""
    return slmperf.measure(USERS, slm_engine)


@MIX.each
def test_throughput(mix, beside, batch_size):
    """The model generates no fewer tokens a second, alone or beside others."""
    point = mix.of(beside=beside)[batch_size]
    assert point.output_throughput >= point.baseline.output_throughput


@MIX.each
def test_each_token(mix, beside, batch_size):
    """Nobody waits longer from token to token."""
    point = mix.of(beside=beside)[batch_size]
    assert point.tpot_ms <= point.baseline.tpot_ms


def test_slo_of_the_mix(mix):
    """Nine of ten requests get their tokens as fast as they are read, whoever runs beside, and so do the others'."""
    for point in mix:
        assert point.tpot_ms.p90 <= 1000 / TOKENS_READ
        for name, batch in others(point):
            if batch.isdecimal():
                assert getattr(point, f"{name}_output_throughput") >= TOKENS_READ * int(batch)


def test_slowdown(mix):
    """Others make the model at most three times as slow, and no more than they did."""
    for beside in {curve.settings["beside"] for curve in mix.curves} - {"none"}:
        slowdown, stored = mix.slowdown(beside), mix.baseline.slowdown(beside)
        assert slowdown <= 3
        assert slowdown.unchanged_from(stored)


@USERS.each
def test_goodput(users, beside, request_rate):
    """As many requests are in time as before, alone or beside others."""
    point = users.of(beside=beside)[request_rate]
    assert point.goodput_share >= point.baseline.goodput_share


@USERS.each
def test_each_token_of_users(users, beside, request_rate):
    """No user waits longer from token to token."""
    point = users.of(beside=beside)[request_rate]
    assert point.tpot_ms <= point.baseline.tpot_ms


def test_slo_of_each_model(users):
    """Nine of ten requests of each model are in time, whoever runs beside it."""
    for point in users:
        assert point.goodput_share >= 0.9
        for name, _ in others(point):
            assert getattr(point, f"{name}_goodput_share") >= 0.9
