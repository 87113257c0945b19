"""What a launch sends for a case: how many requests, how long they are, and when each is due."""

import zlib
from dataclasses import replace

from pytest_slmperf.core.errors import SuiteError
from pytest_slmperf.core.launch import Load, RoundPolicy
from pytest_slmperf.core.load import arrivals
from pytest_slmperf.core.load.traffic import Arrivals
from pytest_slmperf.core.sweeps.sweep import Case, Sweep
from pytest_slmperf.core.sweeps.variant import AS_IT_IS
from pytest_slmperf.core.sweeps.workload import ClosedLoop, OpenLoop, Replay, StaticBatch
from pytest_slmperf.engines.lengths import RequestLengths, draw_lengths, recorded

LEAST_LENGTHS = 64
"""Lengths that a closed loop draws, before it sends requests as long as the first ones again."""
LONGER_BY = 1.25
LONGEST_S = 86_400.0
"""That a launch sends. Beyond a day somebody's unit is wrong: a trace's milliseconds, a rate per hour."""


def load_of(sweep: Sweep, case: Case, context_tokens: int, policy: RoundPolicy) -> tuple[Load, str | None]:
    """The case's load, and a note where requests were left out. Raises SuiteError for what exceeds the context,
    and for what would be sent for more than a day.

    It depends on the case's name, its workload and the policy alone: every launch and every arm sends the same, and so
    does every variant of the engine. Of a search it is that of the highest place.
    """
    seed = zlib.crc32(replace(case, variant=AS_IT_IS, per_replica=False).name.encode())
    lengths, left_out, sent = _requests(sweep, case, context_tokens, policy, seed)
    longest_s = sent.due_s[-1] if sent and sent.due_s else 0.0
    if sweep.search and longest_s:
        longest_s = max(longest_s, 2 * policy.observed_requests / sweep.search.low)
    if longest_s > LONGEST_S:
        hours, most = (seconds / 3600 for seconds in (longest_s, LONGEST_S))
        raise SuiteError(
            f"{case.name}: a launch would send for {hours:,.0f} hours, and at most {most:.0f} are taken: raise "
            f"{case.axis}, or let it replay or ramp for fewer seconds; times of a trace are dates or seconds"
        )
    note = (
        f"{case.model}: {left_out} requests of the trace exceed its context of {context_tokens} tokens and are left out"
    )
    prefix = getattr(sweep.workload, "shared_prefix_tokens", 0)
    return Load(case.name, lengths, seed, sent, prefix, sweep.search), note if left_out else None


def _requests(
    sweep: Sweep, case: Case, context_tokens: int, policy: RoundPolicy, seed: int
) -> tuple[RequestLengths, int, Arrivals | None]:
    """Their lengths, how many were left out, and when they are sent."""
    match workload := sweep.workload:
        case StaticBatch():
            return *draw_lengths(workload, int(case.total), context_tokens), None
        case ClosedLoop():
            count = max(LEAST_LENGTHS, 4 * int(case.total) + policy.observed_requests)
            return *draw_lengths(workload, count, context_tokens), Arrivals(concurrency=int(case.total))
        case OpenLoop():
            due_s = _due_s(workload, case.total, policy, seed)
            lengths, left_out = draw_lengths(workload, len(due_s), context_tokens)
            return lengths, left_out, Arrivals(due_s, workload.max_concurrency, ramp_s=workload.ramp_s)
        case Replay():
            offsets_s, lengths, left_out = recorded(workload, context_tokens)
            due_s = arrivals.replayed(offsets_s, case.total)
            return lengths, left_out, Arrivals(due_s, workload.max_concurrency, recorded=True)


def _due_s(workload: OpenLoop, rate: float, policy: RoundPolicy, seed: int) -> tuple[float, ...]:
    """When requests are due, for so long that half of it after the ramp is a window with as many as are needed.

    The other half is there to reach the steady state in: no rule that looks for its beginning cuts more away.
    """
    window_s = max(policy.traffic_s, policy.observed_requests / rate)
    while True:
        due_s = arrivals.schedule(workload, rate, seconds=workload.ramp_s + 2 * window_s, seed=seed)
        if sum(at >= workload.ramp_s + window_s for at in due_s) >= policy.observed_requests:
            return due_s
        window_s *= LONGER_BY
