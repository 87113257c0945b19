"""Stretches of work, added up: what was done by any instant, and how sure that is."""

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import median

from pytest_slmperf.core.engine import Served
from pytest_slmperf.core.load.concurrency import under_way
from pytest_slmperf.core.load.traffic import Exchange
from pytest_slmperf.core.units import NS_PER_S

STEP_SWING = 0.2
"""By how much power may swing around its mean within a step: decode alternates between 300 and 430 W or so."""
STALL = 1.5
"""Static batches of one load take the same time within some per cent."""
BATCH_SWING = 0.75
"""The same within a static batch: its prefill takes the most, and its last, longest requests the least."""


@dataclass(frozen=True, slots=True)
class Work:
    """A stretch of work whose inside is not known: one step of all requests, or a whole batch."""

    started_ns: int
    ended_ns: int
    output_tokens: int
    prompt_tokens: int = 0
    requests: float = 0
    """That ended with it."""
    swing: float = STEP_SWING
    """By how much power may swing around its mean in it."""


def work_of(batches: Iterable[Served], prompt_tokens: int) -> tuple[Work, ...]:
    """Static batches as stretches of work: step by step where token times are known, else whole.

    `prompt_tokens` is of one batch. A prefill belongs to the first step.
    """
    work: list[Work] = []
    for batch in batches:
        tokens, requests = sum(batch.output_tokens), len(batch.output_tokens)
        if not batch.token_ns:
            work.append(Work(batch.started_ns, batch.ended_ns, tokens, prompt_tokens, requests, BATCH_SWING))
            continue
        came = Counter(at for stamps in batch.token_ns for at in stamps)
        ended = Counter(stamps[-1] for stamps in batch.token_ns)
        begin, prompt = batch.started_ns, prompt_tokens
        for at in sorted(came):
            work.append(Work(begin, at, came[at], prompt, ended[at]))
            begin, prompt = at, 0
    return tuple(work)


def work_of_traffic(exchanges: Sequence[Exchange]) -> tuple[Work, ...]:
    """Requests that come and go as stretches of work, in the order of time and none overlapping.

    A stretch is a step of the engine, as far as that can be seen from its answers: it gives each request one part at
    most, so a step ends where a request that has had its part in it gets another. A prompt belongs to the step of its
    request's first part, and a request to that of its last. Where nothing was under way there is no work.
    """
    tokens = [one.part_tokens for one in exchanges]
    busy = under_way(exchanges)
    steps: list[tuple[int, list[tuple[int, int, int]]]] = []
    served: set[int] = set()
    ended_ns = 0
    for came in sorted(
        (at, place, part) for place, one in enumerate(exchanges) for part, at in enumerate(one.chunk_ns)
    ):
        at_ns, place, _ = came
        rose_ns = busy.risen_before(at_ns)
        if not steps or place in served or rose_ns > ended_ns:
            steps.append((max(ended_ns, rose_ns), []))
            served = set()
        steps[-1][1].append(came)
        served.add(place)
        ended_ns = at_ns
    return tuple(
        Work(
            began_ns,
            came[-1][0],
            output_tokens=sum(tokens[place][part] for _, place, part in came),
            prompt_tokens=sum(exchanges[place].prompt_tokens for _, place, part in came if part == 0),
            requests=sum(part == len(tokens[place]) - 1 for _, place, part in came),
        )
        for began_ns, came in steps
    )


@dataclass(frozen=True, slots=True)
class Done:
    """What was done by some instant, with shares of the work that it cuts in two."""

    output_tokens: float
    prompt_tokens: float
    requests: float
    busy_ns: float
    loose_ns: float
    """Standard uncertainty from the work that is cut, as time. The nearer end of it bounds the error, and a small error
    is likelier than a large one (a triangle)."""


class Tally:
    """Stretches of work, added up. They are in the order of time, and none begins before the last one ended."""

    def __init__(self, work: Sequence[Work]) -> None:
        self._work = work
        self._starts = [one.started_ns for one in work]
        self._outputs = [0, *accumulate(one.output_tokens for one in work)]
        self._prompts = [0, *accumulate(one.prompt_tokens for one in work)]
        self._requests = [0.0, *accumulate(one.requests for one in work)]
        self._busy = [0, *accumulate(one.ended_ns - one.started_ns for one in work)]

    @property
    def step_s(self) -> float | None:
        """A step's length, the median; None where only whole batches are known."""
        lengths = [one.ended_ns - one.started_ns for one in self._work if one.swing < BATCH_SWING]
        return median(lengths) / NS_PER_S if lengths else None

    def stall_ns(self, from_ns: float, to_ns: float) -> float:
        """By how much the longest whole batch between these instants is longer than all batches' median, if it took
        STALL times that: its engine stood still in it. 0 where none did, and of fewer than three, or of steps.
        """
        batches = [one for one in self._work if one.swing >= BATCH_SWING]
        lengths = [one.ended_ns - one.started_ns for one in batches]
        there = [
            length
            for one, length in zip(batches, lengths, strict=True)
            if one.ended_ns > from_ns and one.started_ns < to_ns
        ]
        usual, longest = median(lengths) if len(lengths) > 2 else math.inf, max(there, default=0)
        return longest - usual if longest > STALL * usual else 0.0

    def done(self, at_ns: float) -> Done:
        """What was done by this instant."""
        place = bisect_right(self._starts, at_ns) - 1
        if place < 0:
            return Done(0, 0, 0, 0, 0)
        one = self._work[place]
        length = one.ended_ns - one.started_ns
        into = min(at_ns - one.started_ns, length)
        share = into / length if length else 1.0
        return Done(
            output_tokens=self._outputs[place] + share * one.output_tokens,
            prompt_tokens=self._prompts[place] + share * one.prompt_tokens,
            requests=self._requests[place] + share * one.requests,
            busy_ns=self._busy[place] + into,
            loose_ns=one.swing * min(into, length - into) / math.sqrt(6),
        )
