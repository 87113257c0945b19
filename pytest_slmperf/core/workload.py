"""Workloads: the requests of a round, how long they are and how they arrive."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_slmperf.core.engine import Request
from pytest_slmperf.core.errors import SuiteError

FIRST_ORDINARY_TOKEN = 16
"""Ids below are left out of prompts: vocabularies keep padding, start and end tokens there."""


@dataclass(frozen=True, slots=True)
class TraceLengths:
    """Prompt and output lengths of real requests, drawn with a seed from a recorded trace.

    `trace` is a name of the package's excerpts (`azure-conversation-2023`) or the path of a CSV file with the columns
    ContextTokens and GeneratedTokens. Requests that exceed the model's context are left out, and counted.
    """

    trace: str = "azure-conversation-2023"
    seed: int = 0


@dataclass(frozen=True, slots=True)
class StaticBatch:
    """All requests of a batch are sent at once; the next batch starts when the last token of this one is there.

    Lengths are fixed, or drawn from a trace with `lengths=`.
    """

    prompt_tokens: int | None = None
    output_tokens: int | None = None
    lengths: TraceLengths | None = None

    def __post_init__(self) -> None:
        fixed = (self.prompt_tokens, self.output_tokens)
        if self.lengths is None and None in fixed:
            raise SuiteError("StaticBatch needs prompt_tokens and output_tokens, or lengths=TraceLengths(…)")
        if self.lengths is not None and fixed != (None, None):
            raise SuiteError("StaticBatch takes fixed lengths or lengths=TraceLengths(…), not both")
        for name, tokens in zip(("prompt_tokens", "output_tokens"), fixed, strict=True):
            if tokens is not None and (type(tokens) is not int or tokens < 1):
                raise SuiteError(f"StaticBatch: {name}={tokens!r}; it must be a whole number of at least 1")


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


def sample_lengths(
    recorded: Sequence[tuple[int, int]], count: int, *, seed: int, context_tokens: int
) -> tuple[tuple[tuple[int, int], ...], int]:
    """Draw the lengths of `count` requests from recorded ones, and say how many of these exceed the context.

    Nothing is drawn twice before everything that fits was drawn once. A smaller count gives the start of a larger one.
    Raises SuiteError if no recorded request fits.
    """
    fitting = [lengths for lengths in recorded if sum(lengths) <= context_tokens]
    left_out = len(recorded) - len(fitting)
    if not fitting:
        raise SuiteError(f"none of the trace's {len(recorded)} requests fits into a context of {context_tokens} tokens")
    draw = random.Random(seed)
    drawn: list[tuple[int, int]] = []
    while len(drawn) < count:
        draw.shuffle(fitting)
        drawn += fitting
    return tuple(drawn[:count]), left_out
