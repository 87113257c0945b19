"""What models beside a measured one come to: throughput, latencies and goodput of each."""

import pytest

from pytest_slmperf import Beside, Slo
from pytest_slmperf.core.beside import NeighbourWork
from pytest_slmperf.core.errors import SuiteError
from pytest_slmperf.core.load.mix_metrics import mix_metrics
from pytest_slmperf.core.metrics import is_latency, metric
from pytest_slmperf.core.units import NS_PER_MS, NS_PER_S

PACED = Beside("m", request_rate=10, slo=Slo(ttft_ms=50, tpot_ms=10))


def requests(*began_ms, ttft=20, tpot=5, tokens=11):
    """Requests of so many tokens that began then, as the engine of a neighbour tells them."""
    each = [(at, at + ttft + tpot * (tokens - 1), at + ttft) for at in began_ms]
    return tuple((at * NS_PER_MS, end * NS_PER_MS, 8, tokens, 1, first * NS_PER_MS) for at, end, first in each)


def seen(*rounds, load=PACED, spans=None, quantiles=(0.5,)):
    """What it did in so many rounds of a second."""
    spans = spans or [(NS_PER_S * at, NS_PER_S * (at + 1)) for at in range(len(rounds))]
    return mix_metrics([[NeighbourWork("m@x (core 1)", done, load)] for done in rounds], spans, quantiles)


def test_a_batch_counts_with_the_share_of_it_that_lies_in_a_round():
    """And its length is the only latency that is known of it."""
    done = ((0, 2 * NS_PER_S, 8, 40, 1, 0), (2 * NS_PER_S, 4 * NS_PER_S, 8, 40, 1, 0))
    found = seen(done, load=Beside("m", batch_size=1), spans=[(NS_PER_S, 3 * NS_PER_S)])
    assert found.values == {"beside_1_output_throughput": (20.0,), "beside_1_median_e2el_ms": (2000.0,)}
    assert found.notes == ("beside_1 is m@x (core 1)",)


def test_requests_at_a_rate_are_counted_over_all_rounds():
    """A short round may see none; the share of those that met the limits is of all that began."""
    found = seen(requests(100, 200), (), requests(2_100, 2_950, ttft=60))
    assert found.values["beside_1_output_throughput"] == pytest.approx((11 * (3 + 0.25) / 3,), rel=0.12)
    assert found.values["beside_1_request_throughput"] == (1.0,)
    assert found.values["beside_1_goodput_share"] == (0.5,)
    assert found.values["beside_1_median_ttft_ms"] == (40.0,)
    assert found.values["beside_1_median_tpot_ms"] == (5.0,)
    assert found.values["beside_1_median_e2el_ms"] == (90.0,)
    assert not found.unmeasured


def test_a_closed_loop_has_a_throughput_of_each_round():
    """Its places are always taken."""
    load = Beside("m", concurrency=1)
    found = seen(requests(*range(0, 1000, 100)), requests(*range(1000, 2000, 50), tpot=2), load=load)
    assert found.values["beside_1_output_throughput"] == pytest.approx((110, 220), rel=0.1)
    assert "beside_1_goodput_share" not in found.values


def test_what_was_not_seen_is_unmeasured():
    """Never zero: a rate of which nothing came, limits that no request met, a quantile of too few."""
    nothing = seen(())
    assert not nothing.values
    assert nothing.unmeasured["beside_1_output_throughput"] == "a round saw nothing of it"
    assert "too few of its requests" in nothing.unmeasured["beside_1_median_ttft_ms"]
    late = seen(requests(100, ttft=300), quantiles=(0.5, 0.9))
    assert "none of its requests met" in late.unmeasured["beside_1_goodput_share"]
    assert "too few of its requests" in late.unmeasured["beside_1_p90_ttft_ms"]
    assert seen(requests(*range(0, 900, 90)), quantiles=(0.5, 0.9)).values["beside_1_p90_ttft_ms"] == (20.0,)
    assert mix_metrics([(), ()], [(0, 1), (1, 2)], (0.5,)).values == {}


@pytest.mark.parametrize(("lasts", "said"), [(50, 0), (5_000, 1)])
def test_a_neighbour_that_does_not_keep_up_is_told(lasts, said):
    """Its requests pile up, and its latencies are what they were in that time alone."""
    notes = seen(requests(*range(0, 1000, 20), ttft=lasts), load=Beside("m", request_rate=50)).notes[1:]
    assert notes == ("beside_1 does not keep up with its rate: its requests pile up",) * said


def test_metrics_of_a_neighbour_have_names():
    """As those of the measured model, whose latencies they are none of."""
    assert metric("beside_1_ttft_ms").name == "beside_1_median_ttft_ms"
    assert metric("beside_12_p99.9_e2el_ms").quantile == pytest.approx(0.999)
    assert metric("beside_2_goodput_share").higher_is_better
    assert not is_latency("beside_1_ttft_ms")
    assert is_latency("p99_ttft_ms")
    for name in ("beside_1_itl_ms", "beside_0_ttft_ms", "beside_1_peak_memory_bytes", "beside_1_beside_2_ttft_ms"):
        with pytest.raises(SuiteError, match="unknown metric"):
            metric(name)
