"""Which tokens an engine generates, by replica where it has several; never while anything is timed."""

from collections.abc import Sequence

from pytest_slmperf.core.answers import AnsweringPool, Said, kept_of
from pytest_slmperf.core.engine import Answering, Engine, Request
from pytest_slmperf.core.protocol import Answers, Question


def answers(engine: Engine, ask: Question) -> Answers:
    """What it answers to the kept requests, or why that can't be told. Raises what the engine raises."""
    if isinstance(engine, AnsweringPool):
        said = engine.answers(ask.requests, together=ask.together)
    elif isinstance(engine, Answering):
        said = said_by(engine, ask.requests, together=ask.together)
    else:
        said = None
    if said is None:
        return Answers((), "the engine doesn't tell which tokens it generates")
    return Answers(tuple(kept_of(said, ask.kept)))


def said_by(
    engine: Answering, requests: Sequence[Request], *, together: bool, who: str = ""
) -> tuple[Said, ...] | None:
    """The answers of one engine to all requests, at once or each alone; None where it can't tell them."""
    answered: list[tuple[int, ...]] = []
    for batch in [requests] if together else [(request,) for request in requests]:
        told = engine.answer(batch)
        if told is None:
            return None
        answered += told
    return (Said(who, tuple(range(len(requests))), tuple(answered)),)
