"""Guards of a load with arrivals: what voids a round of it, judged by its causes and never by its result.

A failed request is never a fast one: one that fails while the window is open voids it, whenever it was sent, since the
engine worked for it in place of others.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from pytest_slmperf.core.devices.board import Effect, Finding
from pytest_slmperf.core.guards import front_end
from pytest_slmperf.core.launch import Load
from pytest_slmperf.core.load.latency import Answered, answered_of, percentile
from pytest_slmperf.core.load.traffic import (
    CACHED_TOKENS,
    FRONT_END,
    PREEMPTIONS,
    QUERIED_TOKENS,
    STARTED_AT,
    Exchange,
    Look,
    Sender,
    Traffic,
)
from pytest_slmperf.core.load.window import NoWindow, Window
from pytest_slmperf.core.metrics import GOODPUT
from pytest_slmperf.core.units import NS_PER_MS

MEDIAN = 0.5
TTFT, DECODING, GAP, E2EL = "ttft_ms", "tpot_ms", "itl_ms", "e2el_ms"
"""Times that begin or end with a stamp, by the latency that is made of them."""


@dataclass(frozen=True, slots=True)
class TrafficTolerances:
    """How much of each cause a round may have seen."""

    late_ms: float = 2.0
    """Lateness that is never blamed: what a kernel lets a thread that is ready wait for another's slice of a core."""
    late_share: float = 0.05
    """Of the time that it spoils. What is stamped late is longer by it than it was, and a place of a closed loop is
    empty for it; a late request of an open loop finds the engine as it is so much later, and what it finds changes in
    the time that the engine takes for a first token. For one in a hundred to be a twentieth longer is below what a gate
    tells from noise."""
    core: float = 0.9
    """Share of a core that the sender's thread may use: from there on, what comes is stamped when it has time."""
    cached: float = 0.01
    """Share of the prompts' tokens that may come from a cache: all of them begin with the same token or two."""

    def bound_ms(self, of_ms: Sequence[float]) -> float:
        """How late is late where such times are measured."""
        return max(self.late_ms, self.late_share * median(of_ms) if of_ms else 0.0)


SEEN_IN_PERCENTILES = (
    "who sends the requests was late now and then, by more than a twentieth of them: the higher percentiles of {} hold "
    "that, too"
)


def judge_traffic(
    traffic: Traffic,
    window: Window | NoWindow,
    load: Load,
    tolerances: TrafficTolerances = TrafficTolerances(),
    *,
    at_stake: Collection[str] = (TTFT,),
) -> tuple[Finding, ...]:
    """What is to be said of a round: findings that void it (`Effect.VOID`), then notes (`Effect.NOTE`).

    Where no window was found, that is the last of the reasons: a failed request may be why. `at_stake` are the times
    that a late sender would spoil, as `latencies_at_stake` has them.
    """
    if isinstance(window, NoWindow):
        from_ns, to_ns = traffic.began_ns, traffic.last_sent_ns
    else:
        from_ns, to_ns = window.from_ns, window.to_ns
    sent = [one for one in traffic.exchanges if from_ns <= one.sent_ns < to_ns]
    there = [one for one in traffic.exchanges if one.sent_ns < to_ns and one.ended_ns >= from_ns]
    looks = _around(traffic.looks, from_ns, to_ns)
    unanswered = _unanswered(traffic.exchanges)
    found: Iterable[Finding | None] = (
        unanswered,
        None if unanswered else _busy(traffic.sender, tolerances),  # before what it was too busy to read in time
        None if unanswered else _failed(there),
        _restarted(traffic.looks),
        _answers(sent),
        *_late(sent, traffic.sender, load, tolerances, at_stake),
        _cached(sent, looks, load, tolerances),
        _preempted(looks),
        _void("unsteady", window.reason) if isinstance(window, NoWindow) else None,
        _front_end(traffic.looks, from_ns, to_ns),
        *_unseen(traffic, sent),
    )
    return tuple(filter(None, found))


def _void(guard: str, reason: str) -> Finding:
    return Finding(guard, Effect.VOID, reason)


def _unanswered(exchanges: Sequence[Exchange]) -> Finding | None:
    """Nothing at all came back: whoever sent them has sent no more."""
    if not exchanges or not all(one.error for one in exchanges):
        return None
    first = min(exchanges, key=lambda one: one.ended_ns)  # those given up for it ended later
    return _void("unanswered", f"none of {len(exchanges)} requests was answered; the first that failed: {first.error}")


def _failed(there: Sequence[Exchange]) -> Finding | None:
    failed = [one for one in there if one.error]
    if not failed:
        return None
    return _void("errors", f"{len(failed)} of {len(there)} requests failed, the first of them: {failed[0].error}")


def _answers(sent: Sequence[Exchange]) -> Finding | None:
    """Fewer or more tokens are other work than what was asked for."""
    answered = [one for one in sent if not one.error]
    other = [one for one in answered if one.output_tokens != one.asked_tokens]
    if not other:
        return None
    first = f"the first of them {other[0].output_tokens} of {other[0].asked_tokens}"
    return _void("answers", f"{len(other)} of {len(answered)} answers have other than the tokens asked for, {first}")


def latencies_at_stake(gated: Collection[str], quantiles: Iterable[float]) -> frozenset[str]:
    """Which times a late sender would spoil, by what is gated of a sweep and the quantiles that it asks for.

    Throughput is of whole answers, and a token's time of all tokens after the first. Goodput, a percentile and whatever
    is compared with a limit may be of first tokens, so those are at stake unless they surely aren't.
    """
    first = [name for name in gated if name.endswith(TTFT) or name in GOODPUT]
    found = {E2EL}
    if first or not gated or any(quantile != MEDIAN for quantile in quantiles):
        found.add(TTFT)
    if any(name.endswith(DECODING) for name in gated):
        found.add(DECODING)
    return frozenset(found)


def _times_ms(latency: str, seen: Sequence[Answered]) -> list[float]:
    """How long it took what lies between the two stamps of a latency: of a token's time all tokens after the first."""
    if latency == TTFT:
        return [one.ttft_ms for one in seen]
    if latency == DECODING:
        return [one.e2el_ms - one.ttft_ms for one in seen if one.output_tokens > 1]
    if latency == GAP:
        return [tpot for one in seen if (tpot := one.tpot_ms)]
    return [one.e2el_ms for one in seen]


def _late(
    sent: Sequence[Exchange],
    sender: Sender,
    load: Load,
    tolerances: TrafficTolerances,
    at_stake: Collection[str],
) -> tuple[Finding | None, Finding | None]:
    """Requests that were sent late, and an event loop that was: then whatever came was stamped late, too."""
    seen = answered_of(sent)
    bounds = {latency: tolerances.bound_ms(_times_ms(latency, seen)) for latency in (TTFT, DECODING, GAP, E2EL)}
    lag_bound_ms = min(bounds[latency] for latency in at_stake)
    open_loop = load.arrivals is not None and load.arrivals.due_s
    late_bound_ms = bounds[TTFT] if open_loop else lag_bound_ms
    late_ms = percentile([(one.sent_ns - one.due_ns) / NS_PER_MS for one in sent], 0.99) if sent else 0.0
    lag_ms = percentile(sender.lag_ms, 0.99) if sender.lag_ms else 0.0
    late = lagging = None
    if late_ms > late_bound_ms:
        allowed = f"and {late_bound_ms:.3g} ms is allowed"
        late = _void("late", f"requests were sent up to {late_ms:.3g} ms late (p99), {allowed}")
    spoiled = [latency for latency in (TTFT, GAP) if lag_ms > bounds[latency]]
    if lag_ms > lag_bound_ms:
        allowed = f"and {lag_bound_ms:.3g} ms is allowed"
        lagging = _void("sender", f"who sends them was late by {lag_ms:.3g} ms (p99), {allowed}")
    elif spoiled:
        lagging = Finding("sender", Effect.NOTE, SEEN_IN_PERCENTILES.format(" and ".join(spoiled)))
    return late, lagging


def _busy(sender: Sender, tolerances: TrafficTolerances) -> Finding | None:
    if sender.cpu_s <= tolerances.core * sender.wall_s:
        return None
    return _void("sender", f"who sends the requests used {sender.cpu_s / sender.wall_s:.0%} of a core")


def _cached(
    sent: Sequence[Exchange], looks: Sequence[Look], load: Load, tolerances: TrafficTolerances
) -> Finding | None:
    """By the answers where they tell, else by the engine's own count, which doesn't know what is shared on purpose."""
    prompt = sum(one.prompt_tokens for one in sent)
    hit = float(sum(max(0, one.cached_tokens - load.shared_prefix_tokens) for one in sent))
    if not hit and not load.shared_prefix_tokens:
        counted, prompt = _grown(looks, CACHED_TOKENS), round(_grown(looks, QUERIED_TOKENS) or 0) or prompt
        hit = counted or 0.0
    if hit <= tolerances.cached * prompt:
        return None
    beyond = " beyond the prefix that they share" if load.shared_prefix_tokens else ", and they share none"
    return _void("cached", f"{hit:.0f} of {prompt} prompt tokens came from a cache{beyond}")


def _preempted(looks: Sequence[Look]) -> Finding | None:
    times = _grown(looks, PREEMPTIONS)
    if not times:
        return None
    return _void(
        "preempted", f"the engine put requests off {times:.0f} times as its memory ran out, and began them anew"
    )


def _restarted(looks: Sequence[Look]) -> Finding | None:
    starts = {look.counters[STARTED_AT] for look in looks if STARTED_AT in look.counters}
    if len(starts) > 1:
        return _void("restarted", "the engine was started anew in the middle")
    for name in (PREEMPTIONS, CACHED_TOKENS, QUERIED_TOKENS):
        told = [look.counters[name] for look in looks if name in look.counters]
        if any(after < before for before, after in pairwise(told)):
            return _void("restarted", f"its count of {name} fell: the engine was started anew in the middle")
    return None


def _front_end(looks: Sequence[Look], from_ns: int, to_ns: int) -> Finding | None:
    """Each look tells of the time since the one before it, so the first within the window tells of what was before."""
    within = [look for look in looks if from_ns <= look.at_ns < to_ns][1:]
    said = front_end.at_limit(look.counters.get(FRONT_END) for look in within)
    return Finding("front end", Effect.NOTE, said) if said else None


def _around(looks: Sequence[Look], from_ns: int, to_ns: int) -> list[Look]:
    """The looks within, and the nearest on either side."""
    before = [look for look in looks if look.at_ns < from_ns][-1:]
    after = [look for look in looks if look.at_ns >= to_ns][:1]
    return [*before, *(look for look in looks if from_ns <= look.at_ns < to_ns), *after]


def _grown(looks: Sequence[Look], counter: str) -> float | None:
    """By how much it grew, or None where two looks at it are missing."""
    told = [look.counters[counter] for look in looks if counter in look.counters]
    return told[-1] - told[0] if len(told) > 1 else None


def _unseen(traffic: Traffic, sent: Sequence[Exchange]) -> list[Finding]:
    """What can't be seen of this engine."""
    told = {name for look in traffic.looks for name in look.counters}
    blind = []
    if PREEMPTIONS not in told:
        blind.append("preemptions")
    if CACHED_TOKENS not in told and not any(one.cached_tokens for one in sent):
        blind.append("whether prompts came from a cache")
    if STARTED_AT not in told and PREEMPTIONS not in told:
        blind.append("whether it was started anew")
    if not blind:
        return []
    return [Finding("blind", Effect.NOTE, f"the engine doesn't let see {', '.join(blind)}")]
