"""Servers of which the truth is known: requests wait in line for a place, and each is served for its own time."""

import heapq
import random
from collections import deque

from pytest_slmperf.core.load.traffic import Exchange, Traffic

S = 1_000_000_000


def exchange(sent_ns, begin_ns, end_ns, tokens=4, *, arrived_ns=None, **fields):
    """A request that is served from `begin_ns` on, in equal steps of one token each."""
    steps = [begin_ns + (end_ns - begin_ns) * step // tokens for step in range(1, tokens + 1)]
    told = {
        "chunk_ns": tuple(steps),
        "prompt_tokens": 10,
        "output_tokens": tokens,
        "asked_tokens": fields.get("output_tokens", tokens),
        "queued_ns": 0 if arrived_ns is None else sent_ns - arrived_ns,
        **fields,
    }
    return Exchange(sent_ns, sent_ns, end_ns, **told)


def traffic_of(exchanges, **fields):
    """All of them, in the order in which they were due."""
    ordered = tuple(sorted(exchanges, key=lambda one: one.due_ns))
    told = {"began_ns": 0, "last_sent_ns": max(one.sent_ns for one in ordered), **fields}
    return Traffic(ordered, **told)


def open_loop(due_s, service_s, *, places=1, limit=None, tokens=4):
    """Requests that come when they are due, whoever is still there. Beyond `limit` they wait before they are sent."""
    free, under_way, exchanges = [0.0] * places, [], []
    for due, service in zip(due_s, service_s, strict=True):
        sent = due
        if limit is not None and len(under_way) >= limit:
            sent = max(due, heapq.heappop(under_way))
        begin = max(sent, heapq.heappop(free))
        heapq.heappush(free, begin + service)
        heapq.heappush(under_way, begin + service)
        ns = [int(at * S) for at in (sent, begin, begin + service)]
        exchanges.append(exchange(*ns, tokens, arrived_ns=int(due * S)))
    return traffic_of(exchanges)


def closed_loop(concurrency, service_s, *, seconds, places=None, tokens=4):
    """So many requests under way; `service_s()` is how long the next one is served. Sends none after `seconds`."""
    free = [0.0] * (places or concurrency)
    ready, exchanges = [0.0] * concurrency, []
    while ready:
        sent = heapq.heappop(ready)
        if sent > seconds:
            continue
        begin = max(sent, heapq.heappop(free))
        end = begin + service_s()
        heapq.heappush(free, end)
        heapq.heappush(ready, end)
        exchanges.append(exchange(*(int(at * S) for at in (sent, begin, end)), tokens))
    return traffic_of(exchanges)


def in_turn(due_s, step_s, *, tokens=4):
    """An engine that gives one token a step, to whoever is there in turn."""
    coming, there, stamps, now = deque(due_s), deque(), [], 0.0
    while coming or there:
        now += step_s
        while coming and coming[0] <= now:
            stamps.append((coming.popleft(), []))
            there.append(stamps[-1])
        if there:
            one = there.popleft()
            one[1].append(int(now * S))
            if len(one[1]) < tokens:
                there.append(one)
    return traffic_of(
        Exchange(int(due * S), int(due * S), came[-1], tuple(came), 10, tokens, tokens, (1,) * tokens)
        for due, came in stamps
    )


def poisson(rate, seconds, draw):
    """Arrivals at this rate."""
    due, at = [], draw.expovariate(rate)
    while at < seconds:
        due.append(at)
        at += draw.expovariate(rate)
    return due


def mm1(load, seconds, *, service_s=0.05, seed=0, places=1):
    """A server of one place, with exponential times between arrivals and of service: its mean number is known."""
    draw = random.Random(seed)
    due = poisson(load / service_s, seconds, draw)
    return open_loop(due, [draw.expovariate(1 / service_s) for _ in due], places=places)
