"""A search in a launch: the load of each probe, what is asked for it, and what came of it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pytest_slmperf.core.devices.board import Effect
from pytest_slmperf.core.guards.traffic import judge_traffic
from pytest_slmperf.core.launch import Load, RoundPolicy
from pytest_slmperf.core.load.arrivals import NS_DIGITS
from pytest_slmperf.core.load.concurrency import in_system
from pytest_slmperf.core.load.latency import answered_of
from pytest_slmperf.core.load.traffic import FIRST, Exchange, Traffic
from pytest_slmperf.core.load.window import NoWindow, Window, find_window
from pytest_slmperf.core.protocol import Play
from pytest_slmperf.core.slo import Slo
from pytest_slmperf.core.sweeps.search import FOUND, Probe, Search, found, next_place
from pytest_slmperf.run import playing
from pytest_slmperf.run.guards import Void
from pytest_slmperf.run.loads import LONGER_BY

PILES_UP = 0.1
"""Of the requests that come in the second half of an open loop: so many more may be under way then than before, beside
what is chance. Short loads tell no better what an engine can keep up for ever."""
VOIDS_A_MISS = ("sender", "late", "answers", "restarted")
"""Guards of what makes an engine look slow that isn't. What it does itself to more requests than it can serve, as
failing them or putting them off, is a miss: it voids only what would meet."""
OF_MANY = "a search serves at one place after the other"

Send = Callable[[float, Play], Probe | None]
"""Sends what is asked at a place, and says what came of it; None where that is nothing, as where it stayed void."""


@dataclass(frozen=True)
class Probed:
    """What came of one probe."""

    probe: Probe
    void: Void | None = None
    notes: tuple[str, ...] = ()


def search(load: Load, policy: RoundPolicy, slo: Slo, send: Send) -> list[Probe] | None:
    """Look for the highest place that keeps the limits, and tell what was tried; None where a probe told nothing."""
    probes: list[Probe] = []
    while (place := next_place(_how(load), probes, begin=load.begin, counted=_counted(load))) is not None:
        probe = send(place, ask_for(load, place, policy, slo))
        if probe is None:
            return None
        probes.append(probe)
    return probes


Values = tuple[dict[str, tuple[float, ...]], dict[str, str], tuple[str, ...]]
"""Metrics, the reasons for those that can't be had, and notes."""


def values_of(load: Load, probes: Sequence[Probe]) -> Values:
    """The metric that was found, or the reason why there is none, and notes on it."""
    name, came = FOUND["concurrency" if _counted(load) else "request_rate"], found(_how(load), probes)
    if came.place is None:
        return {}, {name: came.reason}, ()
    return {name: (came.place,)}, {}, (f"{name}: {came.note}",) if came.note else ()


def ask_for(load: Load, place: float, policy: RoundPolicy, slo: Slo) -> Play:
    """What is asked for a probe. An open loop ends early where so many have missed that it can't meet any more."""
    here = load_at(load, place, policy)
    return replace(playing.ask_for(here, policy), slo=slo, may_miss=_how(load).may_miss(len(here.lengths)))


def load_at(load: Load, place: float, policy: RoundPolicy) -> Load:
    """The load of one place: the same requests in the same pattern, only at another rate.

    As by `run.loads`, half of an open loop's are a window of the wanted length, with as many as are needed.
    """
    arrivals = load.arrivals
    assert arrivals is not None  # noqa: S101 - a static batch has no search
    if _counted(load):
        return replace(load, arrivals=replace(arrivals, concurrency=int(place)))
    due_s = [round(at * _how(load).high / place, NS_DIGITS) for at in arrivals.due_s]
    window_s = max(policy.traffic_s, policy.observed_requests / place)
    while window_s < due_s[-1] and sum(window_s <= at < 2 * window_s for at in due_s) < policy.observed_requests:
        window_s *= LONGER_BY
    sent_s = tuple(at for at in due_s if at < 2 * window_s)
    return replace(load, lengths=load.lengths[: len(sent_s)], arrivals=replace(arrivals, due_s=sent_s))


def judged(traffic: Traffic, place: float, ask: Play, policy: RoundPolicy) -> Probed:
    """Whether a place meets, by the requests of its window, or of its second half where no window was found.

    Whether requests pile up is measured, and not the window's own word: that asks for evidence, which some seconds of a
    load near what an engine can do give in one launch and not in the next.
    """
    load, slo = ask.load, ask.slo
    assert load.arrivals is not None  # noqa: S101 - it was sent by them
    assert slo is not None  # noqa: S101 - it was asked with one
    window = find_window(traffic, load.arrivals, least_s=playing.SHORTEST_WINDOW * policy.traffic_s)
    half = None if _counted(load) else _second_half(traffic)
    if traffic.given_up:
        window = NoWindow(f"more than {ask.may_miss} of its {len(load.lengths)} requests had missed a limit by then")
    elif isinstance(window, NoWindow) and half:
        window = half
    findings = judge_traffic(traffic, window, load)
    unanswered = next((one.reason for one in findings if one.guard == "unanswered"), "")
    if isinstance(window, NoWindow):
        probe = Probe(place, met=False, why=window.reason)
    else:
        sent = [one for one in traffic.exchanges if window.from_ns <= one.sent_ns < window.to_ns]
        piled_up = _piled_up(traffic, half) if half else math.inf if window.saturated else 0.0
        probe = _within(sent, place, slo, _how(load), piled_up)
    probe = replace(probe, why=unanswered or probe.why)
    misses = traffic.given_up or not (probe.met or isinstance(window, NoWindow))
    voids = [one for one in findings if one.effect is Effect.VOID and (not misses or one.guard in VOIDS_A_MISS)]
    notes = tuple(one.reason for one in findings if one.effect is not Effect.VOID)
    return Probed(probe, Void(voids[0].guard, voids[0].reason) if voids else None, notes)


def _within(sent: Sequence[Exchange], place: float, slo: Slo, how: Search, piled_up: float) -> Probe:
    """By the request on which the share hangs, and by how much they `piled_up`, as a share of what may."""
    needs = sorted(slo.need(one.ttft_ms, one.tpot_ms, one.e2el_ms) for one in answered_of(sent))
    may_miss = how.may_miss(len(sent))
    hangs_on = len(sent) - 1 - may_miss  # those that failed come after all that were answered
    of_limits = needs[hangs_on] if 0 <= hangs_on < len(needs) else math.inf
    need = max(of_limits, piled_up)
    if need <= 1:
        return Probe(place, met=True, need=need)
    late = f"more than {may_miss} of {len(sent)} requests missed a limit of {slo}"
    why = late if of_limits > 1 else "requests pile up: fewer end than come"
    return Probe(place, met=False, need=need if need < math.inf else None, why=why)


def _second_half(traffic: Traffic) -> Window | None:
    """Of an open loop; None where its first requests take longer than the first, so that the system may still fill."""
    half_ns = (traffic.began_ns + traffic.last_sent_ns) // 2
    filled = all(one.ended_ns <= half_ns or one.error for one in traffic.exchanges[:FIRST])
    return Window(half_ns, traffic.last_sent_ns) if filled and half_ns < traffic.last_sent_ns else None


def _piled_up(traffic: Traffic, half: Window) -> float:
    """By how many more are under way in the second half than before it, in the mean, as a share of what may be.

    What may be by chance is the spread of a Poisson number, of which a mean over some lives has half or less.
    """
    steps = in_system(traffic.exchanges)
    filling_ns = max(one.ended_ns - one.arrived_ns for one in traffic.exchanges[:FIRST])
    before = steps.mean(min(traffic.began_ns + filling_ns, half.from_ns - 1), half.from_ns)
    came = sum(half.from_ns <= one.arrived_ns < half.to_ns for one in traffic.exchanges)
    may = PILES_UP * came + math.sqrt(before)
    return max(0.0, steps.mean(half.from_ns, half.to_ns) - before) / may if may else 0.0


def _how(load: Load) -> Search:
    assert load.search is not None  # noqa: S101 - whoever searches has looked
    return load.search


def _counted(load: Load) -> bool:
    """Whether its places are numbers of requests under way."""
    return load.arrivals is not None and not load.arrivals.due_s
