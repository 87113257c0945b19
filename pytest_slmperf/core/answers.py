"""Whether replicas answer as a single instance does: greedy tokens, compared.

A prompt that is served alone gets the same tokens from every process with the same weights, types and kernels: there,
any difference is a fault. In a batch it may get others. How a sum is rounded hangs on the size of the batch and on who
else is in it, and where two tokens score almost alike that decides between them, and all that follows is another text.
So under load the answers that part from those alone are counted, and held to as many as part in a single instance that
serves a batch of the same size.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, TypeAlias, runtime_checkable

from pytest_slmperf.core.engine import Request
from pytest_slmperf.core.launch import Load, at_once
from pytest_slmperf.core.load.prompts import prompts

NOT_FINITE = -1
"""Stands for a token whose score is no finite number: which one it is means nothing then."""
FALSE_ALARM = 1e-5
"""Of the loads that replicas answer as well as a single instance does, at most this share is called wrong."""
PROMPT_LENGTHS = (5, 12, 24, 40)
ANSWER_TOKENS = 16
"""That are compared of an answer to a prompt alone."""
LOAD_TOKENS, FIRST_TOKENS = 8, 2
"""That are compared of an answer under load, and which of them by themselves, too: what rounding alone changes mostly
parts later.
"""
SEED = 20_240_403
LEAST_KEPT, KEPT, MOST_KEPT = 32, 16, 128
"""Answers to a load that are compared: so many of each replica, but of all together no fewer and no more."""

Tokens: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Said:
    """Answers of one replica, or of an engine that has none."""

    who: str
    """`replica 2 of 4 (core 1)`; empty for an engine without replicas."""
    places: tuple[int, ...]
    """Which of the requests that were asked."""
    answers: tuple[Tokens, ...]
    """To each of them."""


@runtime_checkable
class AnsweringPool(Protocol):
    """A replica pool that tells which tokens its replicas generate."""

    def answers(self, requests: Sequence[Request], *, together: bool) -> tuple[Said, ...] | None:
        """All requests at once, spread over the replicas as any other batch; or each of them alone, by each replica.

        None where the replicas can't tell their tokens. Raises EngineFailed and EngineDied, naming the replica.
        """
        ...


@dataclass(frozen=True, slots=True)
class Batch:
    """Requests that are sent together, and the places of those whose answers are kept."""

    requests: tuple[Request, ...]
    kept: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Expected:
    """What a single instance answers to the kept requests of a batch."""

    kept: tuple[int, ...]
    alone: tuple[Tokens, ...]
    """Each by itself."""
    beside: tuple[Tokens, ...]
    """Each in a batch of the size that a replica serves."""
    exact: bool = False
    """Whether that is one request, whose answer can't part from the one alone."""


def fixed_prompts(vocabulary: int, context_tokens: int) -> tuple[Request, ...]:
    """A few short prompts, the same on every machine, cut where the context is short."""
    output = min(ANSWER_TOKENS, max(1, context_tokens // 2))
    lengths = [(max(1, min(prompt, context_tokens - output)), output) for prompt in PROMPT_LENGTHS]
    return prompts(lengths, vocabulary=vocabulary, seed=SEED)


def trial(load: Load, replicas: int, vocabulary: int, *, whole: bool) -> tuple[Batch, ...]:
    """Batches of a load's lengths, as many as it takes to keep enough answers, none of them to a prompt of the load.
    One is enough where no replica gets two requests.

    Answers are cut to what is compared, but with `whole`: then there is one batch, of the very shape that is measured.
    """
    lengths = at_once(load).lengths
    wanted = max(LEAST_KEPT, min(KEPT * replicas, MOST_KEPT))
    turns = 1 if whole or len(lengths) <= replicas else math.ceil(wanted / len(lengths))
    kept = min(len(lengths), math.ceil(wanted / turns))
    places = tuple(place * len(lengths) // kept for place in range(kept))
    cut = lengths if whole else tuple((prompt, min(output, LOAD_TOKENS)) for prompt, output in lengths)
    return tuple(
        Batch(prompts(cut, vocabulary=vocabulary, seed=SEED + load.seed + turn), places) for turn in range(turns)
    )


def alone_of(batch: Batch) -> tuple[Request, ...]:
    """The kept requests, each to be answered by itself, as far as is compared."""
    kept = (batch.requests[place] for place in batch.kept)
    return tuple(Request(one.prompt, min(one.output_tokens, LOAD_TOKENS)) for one in kept)


def shares(count: int, replicas: int) -> list[range]:
    """The places of so many requests, split evenly in order: the first shares are larger by one, and none is empty."""
    least, more = divmod(count, replicas)
    ends = [number * least + min(number, more) for number in range(replicas + 1)]
    return [range(first, end) for first, end in pairwise(ends) if end > first]


def wrong_alone(expected: Sequence[Tokens], said: Iterable[Said]) -> str:
    """Which replica answers which prompt otherwise than a single instance, and from which token on; empty for none."""
    for one in said:
        for place, given in zip(one.places, one.answers, strict=True):
            at = _parting(expected[place], given)
            if at is not None:
                who = one.who or "it"
                return (
                    f"{who} answers prompt {place + 1} of {len(expected)} otherwise than a single instance: token "
                    f"{at + 1} is {_token(given, at)}, and not {_token(expected[place], at)}"
                )
    return ""


def wrong_under_load(expected: Sequence[Expected], said: Sequence[Sequence[Said]]) -> str:
    """What is wrong with answers to the batches of a load, held to those of a single instance; empty for nothing.

    Each replica, and all of them together, are compared by Fisher's exact test, one-sided: by the answers that part
    from those alone, by those that do so in their first tokens, and by those that are constant. Of loads that replicas
    answer as well as a single instance does, at most `FALSE_ALARM` are called wrong.
    """
    given: dict[str, list[_Kept]] = {}
    for number, (batch, heard) in enumerate(zip(expected, said, strict=True), 1):
        alone = dict(zip(batch.kept, batch.alone, strict=True))
        answered = sorted(place for one in heard for place in one.places)
        if answered != sorted(alone):
            return f"in batch {number}, {len(alone.keys() - set(answered))} of {len(alone)} requests have no answer"
        for one in heard:
            both = [_Kept(answer, alone[place]) for place, answer in zip(one.places, one.answers, strict=True)]
            if flaw := next(filter(None, (kept.flaw(exact=batch.exact) for kept in both)), ""):
                return f"{one.who or 'the pool'} {flaw}"
            given.setdefault(one.who, []).extend(both)
    groups: Mapping[str, Sequence[_Kept]] = given
    if len(given) > 1:
        groups = {**given, "the pool as a whole": [one for kept in given.values() for one in kept]}
    return _fewer_agree(groups, [_Kept(*both) for one in expected for both in zip(one.beside, one.alone, strict=True)])


@dataclass(frozen=True, slots=True)
class _Kept:
    """An answer to a request in a batch, and that to the same request alone."""

    given: Tokens
    alone: Tokens

    def flaw(self, *, exact: bool) -> str:
        """What is wrong with it whatever the others are; empty for nothing."""
        if len(self.given) < len(self.alone):
            return f"generates {len(self.given)} tokens where {len(self.alone)} belong"
        if NOT_FINITE in self.given:
            return "generates tokens from scores that are no finite numbers"
        if exact and self.parts():
            return "answers a request that it serves by itself otherwise than a single instance"
        return ""

    def parts(self, tokens: int = LOAD_TOKENS) -> bool:
        """Whether one of the first tokens differs."""
        compared = min(tokens, len(self.alone))
        return self.given[:compared] != self.alone[:compared]


def _fewer_agree(groups: Mapping[str, Sequence[_Kept]], single: Sequence[_Kept]) -> str:
    level = FALSE_ALARM / (len(_COUNTS) * len(groups))
    for who, kept in groups.items():
        for what, count in _COUNTS.items():
            ours, of_single = count(kept), count(single)
            if at_least(ours, len(kept), of_single, len(single)) <= level:
                return (
                    f"of the answers of {who or 'the pool'}, {ours} of {len(kept)} {what}, and of a single instance's "
                    f"in batches of its size {of_single} of {len(single)}"
                )
    return ""


def at_least(ours: int, of: int, single: int, of_single: int) -> float:
    """How probable so many of ours or more are, given how many there are among both, where both have the same chance.

    Fisher's exact test, one-sided: the upper tail of the hypergeometric distribution.
    """
    both = ours + single
    ways = sum(math.comb(of, k) * math.comb(of_single, both - k) for k in range(ours, min(of, both) + 1))
    return ways / math.comb(of + of_single, both)


def _constant(kept: Sequence[_Kept]) -> int:
    """Answers of one token over and over, and those that another prompt has, too."""
    compared = [one.given[: len(one.alone)] for one in kept]
    known = Counter(compared)
    return sum(known[answer] > 1 or len(set(answer)) == 1 < len(answer) for answer in compared)


_COUNTS: Mapping[str, Callable[[Sequence[_Kept]], int]] = {
    "are constant": _constant,
    f"part from those alone within {FIRST_TOKENS} tokens": lambda kept: sum(one.parts(FIRST_TOKENS) for one in kept),
    "part from those alone": lambda kept: sum(one.parts() for one in kept),
}
"""Of the answers of a group, how many …"""


def _parting(expected: Tokens, given: Tokens) -> int | None:
    """The place of the first token that differs, or None for answers that are equal, and made of tokens."""
    for at in range(max(len(expected), len(given))):
        if at >= min(len(expected), len(given)) or given[at] != expected[at] or given[at] == NOT_FINITE:
            return at
    return None


def _token(answer: Tokens, at: int) -> str:
    if at >= len(answer):
        return "missing"
    return "of a score that is no finite number" if answer[at] == NOT_FINITE else str(answer[at])


def kept_of(said: Iterable[Said], kept: Sequence[int]) -> Iterator[Said]:
    """The same, of the kept requests alone."""
    wanted = set(kept)
    for one in said:
        both = [(place, answer) for place, answer in zip(one.places, one.answers, strict=True) if place in wanted]
        if both:
            places, answers = zip(*both, strict=True)
            yield Said(one.who, places, answers)
