"""Prompts of a batch, and of traffic, one after the other: no two begin alike, but for what they are to share."""

import math
import random
from collections.abc import Sequence
from itertools import count

from pytest_slmperf.core.engine import Request
from pytest_slmperf.core.errors import SuiteError

FIRST_ORDINARY_TOKEN = 16
"""Ids below are left out of prompts: vocabularies keep padding, start and end tokens there."""
POOL = 1 << 15
"""Tokens that prompts are cut from. Whatever is the same in two of them comes after what isn't, and caches go by
prefixes; drawing each token would take most of what sending a request costs.
"""


def prompts(lengths: Sequence[tuple[int, int]], *, vocabulary: int, seed: int) -> tuple[Request, ...]:
    """Requests of the given (prompt, output) lengths. Prompts are uniform over ordinary tokens, and share no prefix.

    The same lengths, vocabulary and seed give the same requests on every machine.
    """
    if vocabulary <= FIRST_ORDINARY_TOKEN:
        raise SuiteError(f"a vocabulary of {vocabulary} tokens is too small: {FIRST_ORDINARY_TOKEN + 1} at least")
    draw = random.Random(seed)
    ordinary = range(FIRST_ORDINARY_TOKEN, vocabulary)
    requests = []
    firsts: set[int] = set()
    for prompt_tokens, output_tokens in lengths:
        first = draw.choice(ordinary)
        while first in firsts and len(firsts) < len(ordinary):
            first = draw.choice(ordinary)
        firsts.add(first)
        rest = draw.choices(ordinary, k=prompt_tokens - 1)
        requests.append(Request((first, *rest), output_tokens))
    return tuple(requests)


class Prompts:
    """Prompts without end; those of the same seed and vocabulary are the same on every machine.

    All begin with the same `shared_prefix_tokens`, or as many as leave one token to the prompt itself. The pair of
    tokens after them comes only once in as many prompts as there are pairs.
    """

    def __init__(self, *, vocabulary: int, seed: int, shared_prefix_tokens: int = 0) -> None:
        ordinary = range(FIRST_ORDINARY_TOKEN, vocabulary)
        if not ordinary:
            raise SuiteError(f"a vocabulary of {vocabulary} tokens is too small: {FIRST_ORDINARY_TOKEN + 1} at least")
        self._draw = random.Random(seed)
        self._ordinary = ordinary
        self._shared = tuple(self._draw.choices(ordinary, k=shared_prefix_tokens))
        self._pool = tuple(self._draw.choices(ordinary, k=POOL))
        self._places = count()
        self._first = self._draw.randrange(len(ordinary))
        self._stride = _coprime(len(ordinary), self._draw)

    def request(self, prompt_tokens: int, output_tokens: int) -> Request:
        """The next one, of these lengths. Some microseconds."""
        ordinary = self._ordinary
        turn, place = divmod(next(self._places), len(ordinary))
        first = ordinary[(self._first + place * self._stride) % len(ordinary)]
        second = ordinary[(self._first + turn) % len(ordinary)]
        shared = self._shared[: prompt_tokens - 1]
        own = prompt_tokens - len(shared)
        at = int(self._draw.random() * POOL)
        rest = self._pool[at : at + max(0, own - 2)]
        while len(rest) < own - 2:
            rest += self._pool[: own - 2 - len(rest)]
        return Request((*shared, *(first, second)[:own], *rest), output_tokens)


def _coprime(modulus: int, draw: random.Random) -> int:
    """A step that comes to each of so many places once before it comes to one again."""
    step = draw.randrange(1, modulus + 1)
    while math.gcd(step, modulus) != 1:
        step += 1
    return step
