"""What each replica of a pool has a part in, as metrics of its own: a loss of one can be blamed on it."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import median

from pytest_slmperf.core.engine import ReplicaWork
from pytest_slmperf.core.load.latency import answered_of
from pytest_slmperf.core.load.traffic import Exchange
from pytest_slmperf.core.load.window import Window
from pytest_slmperf.core.metrics import BALANCE, is_own_rate
from pytest_slmperf.core.sample import Sample
from pytest_slmperf.core.units import NS_PER_S
from pytest_slmperf.core.verdict import Status, Verdict

BEHIND = 0.05
"""Share by which a replica is behind the others from which a note is made."""
SLOWER = 0.10
"""The same of the time that a token of an answer takes."""


def of_batches(rounds: Sequence[Sequence[ReplicaWork]]) -> tuple[dict[str, tuple[float, ...]], list[str]]:
    """Of the rounds of one launch: tokens per second of each replica while it served, one value a round, how balanced
    they are, and a note on who is behind. Nothing for an engine without replicas, nor where one alone had a part in the
    rounds: that is the throughput of all.

    Replicas are compared where each has the same tokens to generate: a larger share is another batch size.
    """
    if not rounds or not rounds[0]:
        return {}, []
    by_replica = list(zip(*rounds, strict=True))
    rates = [[one.output_tokens / one.served_ns * NS_PER_S for one in own] for own in by_replica]
    doubts = _clock_doubts(rounds)
    if len(rates) < 2:
        return {}, doubts
    values = {f"replica_{number}_output_throughput": tuple(own) for number, own in enumerate(rates, 1)}
    if len({one.output_tokens for one in rounds[0]}) > 1:
        return values, doubts
    values[BALANCE] = tuple(min(map(_to_others, _each(own))) for own in zip(*rates, strict=True))
    medians = [median(own) for own in rates]
    notes = [
        f"{by_replica[place][0].name} is behind: it generates {medians[place]:,.4g} tok/s while it serves, "
        f"{1 - share:.0%} less than the others"
        for place, share in enumerate(map(_to_others, _each(medians)))
        if share < 1 - BEHIND
    ]
    return values, notes + doubts


def _clock_doubts(rounds: Sequence[Sequence[ReplicaWork]]) -> list[str]:
    """A note on what other machines' clocks leave unsure of a round, which may begin by one and end by another. Rounded
    up to one digit, so that launches say the same.
    """
    share = max(2 * max(one.clock_error_ns for one in some) / max(one.served_ns for one in some) for some in rounds)
    if not share:
        return []
    digits = -math.floor(math.log10(share))
    bound = math.ceil(share * 10**digits) / 10**digits
    return [f"replicas' times come from other machines' clocks: throughput may be off by {bound:.1g} of itself"]


def of_traffic(exchanges: Sequence[Exchange], window: Window) -> tuple[dict[str, float], list[str]]:
    """Of one round of requests that came one by one: what each replica did in the window, and notes on who failed some
    or is slow. No figures for an engine without replicas, nor where one alone was sent any.
    """
    sent: dict[int, list[Exchange]] = defaultdict(list)
    for one in exchanges:
        if one.replica and window.from_ns <= one.sent_ns < window.to_ns:
            sent[one.replica].append(one)
    values: dict[str, float] = {}
    notes = []
    slowness: dict[int, float] = {}
    for number, own in sorted(sent.items()):
        answered = answered_of(own)
        failed = [one for one in own if one.error]
        if failed:
            # Launches whose notes begin alike are told as one: the numbers come after the words.
            notes.append(f"replica {number} failed requests, {len(failed)} of {len(own)}: {failed[0].error}")
        if not answered:
            continue
        values[f"replica_{number}_request_throughput"] = len(answered) / window.seconds
        values[f"replica_{number}_output_throughput"] = sum(one.output_tokens for one in answered) / window.seconds
        values[f"replica_{number}_median_ttft_ms"] = median(one.ttft_ms for one in answered)
        slowness[number] = median(one.e2el_ms / one.output_tokens for one in answered)
    if len(sent) < 2:
        values = {}
    if len(slowness) > 1:
        for number, share in zip(slowness, map(_to_others, _each(list(slowness.values()))), strict=True):
            if share > 1 + SLOWER:
                notes.append(
                    f"replica {number} is behind: its answers take {share - 1:.0%} longer a token than the others'"
                )
    return {name: value for name, value in values.items() if value > 0}, notes


def _each(values: Sequence[float]) -> list[tuple[float, float]]:
    """Each value, and the mean of the others."""
    total = sum(values)
    return [(value, (total - value) / (len(values) - 1)) for value in values]


def _to_others(both: tuple[float, float]) -> float:
    own, others = both
    return own / others


def blamed(verdict: Verdict, now: Mapping[str, Sample], was: Mapping[str, Sample]) -> Verdict:
    """A verdict `regressed` names the replicas of which the loss is, where it isn't of all of them alike: each is held
    to itself in the baseline, or to the others where that doesn't tell and all have the same to do.
    """
    names = [name for name in now if is_own_rate(name)]
    stored = all(name in was for name in names)
    if verdict.status is not Status.REGRESSED or len(names) < 2 or not (stored or BALANCE in now):
        return verdict
    rates = {name: now[name].median / (was[name].median if stored else 1) for name in names}
    kept = [rate for rate in rates.values() if rate >= (1 - BEHIND) * max(rates.values())]
    lost = {name: rate for name, rate in rates.items() if rate not in kept}
    if not lost:
        return verdict
    if stored:
        who = ", ".join(f"{_named(name)} {rate - 1:+.1%}" for name, rate in lost.items())
        reason = f"not all {len(names)} replicas have lost alike: {who}, the others {median(kept) - 1:+.1%}"
    else:
        who = ", ".join(f"{_named(name)} is {1 - rate / median(kept):.1%}" for name, rate in lost.items())
        reason = f"{who} behind the others"
    return replace(verdict, reason="; ".join(filter(None, (verdict.reason, reason))))


def _named(metric: str) -> str:
    """`replica 2` of `replica_2_output_throughput`."""
    return " ".join(metric.split("_")[:2])
