"""Which tokens the replicas of a pool generate: alone, and while all of them have work."""

from collections.abc import Sequence

from pytest_slmperf.core.answers import Said, Tokens, shares
from pytest_slmperf.core.engine import Request
from pytest_slmperf.pool.replica import Replica


def answers(replicas: Sequence[Replica], requests: Sequence[Request], *, together: bool) -> tuple[Said, ...] | None:
    """As `core.answers.AnsweringPool.answers`. Raises what a replica raises."""
    return _together(replicas, requests) if together else _alone(replicas, requests)


def _alone(replicas: Sequence[Replica], requests: Sequence[Request]) -> tuple[Said, ...] | None:
    said = []
    for replica in replicas:
        answered: list[Tokens] = []
        for request in requests:
            told = replica.answer((request,))
            if told is None:
                return None
            answered += told
        said.append(Said(replica.name, tuple(range(len(requests))), tuple(answered)))
    return tuple(said)


def _together(replicas: Sequence[Replica], requests: Sequence[Request]) -> tuple[Said, ...] | None:
    """Each replica in turn tells its answers to its share, while all others serve theirs."""
    places = shares(len(requests), len(replicas))
    parts = [tuple(requests[place] for place in share) for share in places]
    said = []
    for replica, share, own in zip(replicas, places, parts, strict=False):
        others = [(one, part) for one, part in zip(replicas, parts, strict=False) if one is not replica]
        for one, part in others:
            one.send(part, observe=False)
        told = replica.answer(own)
        for one, _ in others:
            one.served()
        if told is None:
            return None
        said.append(Said(replica.name, tuple(share), told))
    return tuple(said)
