"""What the models beside a measured one did in its rounds: the throughput, latencies and goodput of each, by name."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pytest_slmperf.core.beside import NeighbourWork
from pytest_slmperf.core.load.latency import Answered, needed, percentile
from pytest_slmperf.core.metrics import LATENCIES, at_quantile
from pytest_slmperf.core.units import NS_PER_S

BEHIND = 0.1
"""Share of the requests that arrived, from which those that have not ended are a pile."""
EVIDENT = 3.0
"""Standard deviations of a Poisson number, from which it is none by chance."""
OF_BATCHES = ("e2el_ms",)
OF_REQUESTS = ("ttft_ms", "tpot_ms", "e2el_ms")


@dataclass(frozen=True, slots=True)
class MixMetrics:
    """Of all rounds of a launch."""

    values: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """`beside_1_output_throughput` and so on: one value a round, or one a launch."""
    unmeasured: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def mix_metrics(
    rounds: Sequence[Sequence[NeighbourWork]], spans: Sequence[tuple[int, int]], quantiles: Sequence[float]
) -> MixMetrics:
    """What each that ran beside did within the rounds, which are such spans of time; nothing where nobody did.

    Its throughput is one value a round, but where its requests arrive at a rate: then it is of all rounds, since a
    short one may see none. Latencies and goodput are of all that began in a round, and whatever began is waited for. A
    batch has one latency, its length.
    """
    values: dict[str, tuple[float, ...]] = {}
    unmeasured: dict[str, str] = {}
    each = list(zip(*rounds, strict=True))
    notes = [", ".join(f"beside_{number} is {own[0].name}" for number, own in enumerate(each, 1))] if each else []
    for number, own in enumerate(each, 1):
        found = _of_one(own, spans, quantiles)
        values |= {f"beside_{number}_{name}": some for name, some in found.values.items()}
        unmeasured |= {f"beside_{number}_{name}": reason for name, reason in found.unmeasured.items()}
        notes += [f"beside_{number} {note}" for note in found.notes]
    return MixMetrics(values, unmeasured, tuple(notes))


def _of_one(own: Sequence[NeighbourWork], spans: Sequence[tuple[int, int]], quantiles: Sequence[float]) -> MixMetrics:
    load, both = own[0].load, list(zip(own, spans, strict=True))
    one_by_one = load is not None and load.batch_size is None
    seconds = [(to_ns - from_ns) / NS_PER_S for from_ns, to_ns in spans]
    tokens = [one.within(*span)[1] for one, span in both]
    values = {"output_throughput": tuple(done / lasted for done, lasted in zip(tokens, seconds, strict=True))}
    began = [
        Answered(at, (first, ended), output_tokens // requests)
        for one, (from_ns, to_ns) in both
        for at, ended, _, output_tokens, requests, first in one.done
        if from_ns <= at < to_ns
    ]
    unmeasured: dict[str, str] = {}
    notes = []
    if load and one_by_one:
        ended = sum(from_ns <= item[1] < to_ns for one, (from_ns, to_ns) in both for item in one.done)
        values["request_throughput"] = (ended / sum(seconds),)
        if load.request_rate:
            values["output_throughput"] = (sum(tokens) / sum(seconds),)
            if len(began) - ended > max(BEHIND * len(began), EVIDENT * math.sqrt(len(began))):
                notes.append("does not keep up with its rate: its requests pile up")
        if load.slo:
            values["goodput_share"] = (sum(map(load.slo.met_by, began)) / max(1, len(began)),)
    for name in OF_REQUESTS if one_by_one else OF_BATCHES:
        seen = [value for one in began if (value := getattr(one, name)) is not None]
        for quantile in dict.fromkeys((0.5, *quantiles)):
            full = at_quantile(LATENCIES[name], quantile).name
            if len(seen) < needed(quantile):
                unmeasured[full] = "too few of its requests began in a launch's rounds: raise round_s, or traffic_s"
            else:
                values[full] = (percentile(seen, quantile),)
    for name in [name for name, some in values.items() if min(some) <= 0]:
        del values[name]  # nothing that is measured is zero: it would have no ratio to anything
        bad = began and name == "goodput_share"
        unmeasured[name] = "none of its requests met every limit of its Slo" if bad else "a round saw nothing of it"
    return MixMetrics(values, unmeasured, tuple(notes))
