"""Joules of several models on the same boards: nobody can tell whose they are, so they are those of all tokens."""

import math
from collections.abc import Sequence
from dataclasses import replace

from pytest_slmperf.core.beside import NeighbourWork
from pytest_slmperf.core.energy.window import BoardEnergy, Energy
from pytest_slmperf.core.units import NS_PER_S

NOTE = "joules are those of all models on the boards, over the tokens and requests of all of them"


def of_the_mix(energy: Energy, beside: Sequence[NeighbourWork]) -> Energy:
    """The energy with what the others did in each board's window added to what was done in it.

    What a window's ends cut in two of their work is as unsure as of one's own (a triangle; see `tally.Done`).
    """
    return Energy(tuple(_with(one, beside) for one in energy.boards))


def _with(board: BoardEnergy, beside: Sequence[NeighbourWork]) -> BoardEnergy:
    prompt, output, requests = (
        sum(amounts) for amounts in zip(*(one.within(board.from_ns, board.to_ns) for one in beside), strict=True)
    )
    own = board.output_tokens
    loose_s = [_cut_s(one, at) for one in beside for at in (board.from_ns, board.to_ns)]
    share = output / (own + output) if output else 0.0
    tokens = math.hypot(board.uncertainty.tokens, share * math.hypot(*loose_s) / board.seconds)
    return replace(
        board,
        output_tokens=own + output,
        total_tokens=board.total_tokens + prompt + output,
        requests=board.requests + requests,
        uncertainty=replace(board.uncertainty, tokens=tokens),
    )


def _cut_s(one: NeighbourWork, at_ns: float) -> float:
    """Standard uncertainty of when the work that an instant cuts in two was done, in seconds."""
    cut = [min(at_ns - began, ended - at_ns) for began, ended, *_ in one.done if began < at_ns < ended]
    return max(cut, default=0.0) / math.sqrt(6) / NS_PER_S
