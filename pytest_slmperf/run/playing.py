"""A round of traffic: what is asked for it, and what came of it once it was sent."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from pytest_slmperf.core.beside import NeighbourWork
from pytest_slmperf.core.devices.board import Effect
from pytest_slmperf.core.energy.tally import Work, work_of_traffic
from pytest_slmperf.core.guards.traffic import judge_traffic, latencies_at_stake
from pytest_slmperf.core.launch import Load, RoundPolicy
from pytest_slmperf.core.load.traffic import Traffic
from pytest_slmperf.core.load.traffic_metrics import TrafficMetrics, traffic_metrics
from pytest_slmperf.core.load.window import NoWindow, Window, find_window
from pytest_slmperf.core.protocol import Measured, Play
from pytest_slmperf.core.sample import Interval
from pytest_slmperf.core.slo import Slo
from pytest_slmperf.core.units import NS_PER_S
from pytest_slmperf.run.guards import Void

SHORTEST_WINDOW = 0.5
"""Share of the wanted window that must be left of it: of what is sent, the beginning may be no steady state."""
SENT_TIMES = 2
"""So many times the requests that are wanted a closed loop sends, for the same reason."""
REQUEST_SHARE = 0.1
"""Of the limit that an engine has for an answer to its launch: so long a request may take."""


@dataclass(frozen=True)
class PlayedRound:
    """What came of a round of traffic: metrics of its window, or why it is void."""

    traffic: Traffic
    window: Window | NoWindow
    metrics: TrafficMetrics
    notes: tuple[str, ...] = ()
    void: Void | None = None
    beside: tuple[NeighbourWork, ...] = ()
    """What the models beside did meanwhile."""

    @property
    def span(self) -> Measured:
        """The window as a stretch of time; all of the round where there is none."""
        window, whole = self.window, measured(self.traffic)
        if isinstance(window, NoWindow):
            return whole
        return replace(whole, started_ns=window.from_ns, ended_ns=window.to_ns, beside=self.beside)

    @property
    def ran_s(self) -> float:
        """How long the load had run when the window began."""
        return (self.span.started_ns - self.traffic.began_ns) / NS_PER_S

    @property
    def work(self) -> tuple[Work, ...]:
        """What the engine did within the window; nothing where there is none."""
        window = self.window
        if isinstance(window, NoWindow):
            return ()
        done = work_of_traffic(self.traffic.exchanges)
        return tuple(one for one in done if window.from_ns <= one.started_ns and one.ended_ns <= window.to_ns)


def ask_for(load: Load, policy: RoundPolicy, *, least_s: float = 0.0) -> Play:
    """What is asked of an engine's process. A closed loop goes on for `least_s` at least, as for the joules of it, and
    until half of what was sent has as many requests as are wanted.
    """
    limit_s = REQUEST_SHARE * policy.answer_limit_s
    return Play(load, max(policy.traffic_s, least_s), SENT_TIMES * policy.observed_requests, limit_s)


def answer_limit_s(ask: Play, policy: RoundPolicy) -> float:
    """How long all of it may take: the time that is meant to pass, and of a closed loop as many turns of its places as
    send what is wanted, however slowly. A request that hangs is given up by who sends it.
    """
    arrivals = ask.load.arrivals
    assert arrivals is not None  # noqa: S101 - it is sent by them
    passes_s = arrivals.due_s[-1] if arrivals.due_s else ask.window_s
    turns = 0 if arrivals.due_s else 2 + math.ceil(ask.requests / (arrivals.concurrency or 1))
    return policy.answer_limit_s + passes_s + turns * ask.limit_s


def measured(traffic: Traffic) -> Measured:
    """The round as a stretch of time, by the process's real clock however slowed its engine is, and its work."""
    answered = [one for one in traffic.exchanges if not one.error]
    return Measured(
        started_ns=traffic.began_ns,
        ended_ns=traffic.began_ns + max(1, int(traffic.sender.wall_s * NS_PER_S)),
        requests=len(answered),
        prompt_tokens=sum(one.prompt_tokens for one in answered),
        output_tokens=sum(one.output_tokens for one in answered),
    )


def judged(
    traffic: Traffic, load: Load, policy: RoundPolicy, *, slo: Slo | None, quantiles: Sequence[float]
) -> PlayedRound:
    """Find the window of what was sent, look at it with the guards of traffic, and count what is in it."""
    assert load.arrivals is not None  # noqa: S101 - it was sent by them
    window = find_window(traffic, load.arrivals, least_s=SHORTEST_WINDOW * policy.traffic_s)
    found = judge_traffic(traffic, window, load, at_stake=latencies_at_stake(policy.gated, quantiles))
    notes = tuple(one.reason for one in found if one.effect is not Effect.VOID)
    void = next((Void(one.guard, one.reason) for one in found if one.effect is Effect.VOID), None)
    if isinstance(window, NoWindow):
        return PlayedRound(traffic, window, TrafficMetrics({}, {}), notes, void)
    counted = traffic_metrics(traffic, window, load.arrivals, slo=slo, quantiles=quantiles)
    return PlayedRound(traffic, window, counted, (*notes, *counted.notes), void)


def of_rounds(rounds: Iterable[TrafficMetrics]) -> tuple[dict[str, tuple[float, ...]], dict[str, str]]:
    """Each metric's values, one a round, and the reasons for those that not every round has."""
    counted = list(rounds)
    unmeasured = {name: reason for one in counted for name, reason in one.unmeasured.items()}
    names = dict.fromkeys(name for one in counted for name in one.values if name not in unmeasured)
    return {name: tuple(one.values[name] for one in counted) for name in names}, unmeasured


def intervals_of(rounds: Iterable[TrafficMetrics], names: Iterable[str]) -> dict[str, tuple[Interval | None, ...]]:
    """What each round alone tells of these metrics; without those of which none tells anything."""
    counted = list(rounds)
    found = {name: tuple(one.intervals.get(name) for one in counted) for name in names}
    return {name: some for name, some in found.items() if any(some)}
