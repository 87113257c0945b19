"""An engine under a load of its own, for as long as somebody else is measured beside it."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from pytest_slmperf.core.beside import Beside
from pytest_slmperf.core.engine import Engine, EngineFacts, Request, StreamingEngine
from pytest_slmperf.core.errors import EngineFailed, EngineUnavailable, RequestFailed
from pytest_slmperf.core.prompts import prompts
from pytest_slmperf.engines.streaming import turned
from pytest_slmperf.worker.serving import WrongAnswer, check

if TYPE_CHECKING:
    from collections.abc import Sequence

Item: TypeAlias = tuple[int, int, int, int, int]
"""A batch, or a request: when it began and ended, its prompt and output tokens, and its requests."""
Over: TypeAlias = Callable[[int], bool]
"""Whether the load is to end, after so many nanoseconds; asked before each batch or request."""
SEED = 17


def under_load(
    engine: Engine,
    facts: EngineFacts,
    load: Beside,
    *,
    over: Over,
    begins: Callable[[], None] = lambda: None,
    from_0: bool = False,
) -> tuple[Item, ...]:
    """Say that it `begins`, and serve it until that is over and what was under way is answered; at least one batch, or
    one request at each place.

    Times are the engine's clock, or with `from_0` since the load began. Raises EngineFailed for a wrong answer.
    """
    batch = prompts([(load.prompt_tokens, load.output_tokens)] * load.at, vocabulary=facts.vocabulary, seed=SEED)
    begins()
    done = _batches(engine, batch, over) if load.batch_size else _places(engine, batch, over)
    began = min(item[0] for item in done) if from_0 else 0
    return tuple((start - began, end - began, *rest) for start, end, *rest in sorted(done))  # type: ignore[misc]  # five


def _batches(engine: Engine, batch: "Sequence[Request]", over: Over) -> list[Item]:
    prompt_tokens = sum(len(request.prompt) for request in batch)
    done: list[Item] = []
    while not done or not over(done[-1][1] - done[0][0]):
        served = engine.serve(batch, observe=False)
        try:
            check(batch, served, observe=False)
        except WrongAnswer as error:
            raise EngineFailed(f"wrong answer: {error}") from error
        done.append((served.started_ns, served.ended_ns, prompt_tokens, sum(served.output_tokens), len(batch)))
    return done


def _places(engine: Engine, batch: "Sequence[Request]", over: Over) -> list[Item]:
    if not isinstance(engine, StreamingEngine):
        raise EngineUnavailable("it serves static batches only: give it batch_size=… in place of concurrency=…")
    return engine.run(_taken(engine, batch, over))


async def _taken(engine: StreamingEngine, batch: "Sequence[Request]", over: Over) -> list[Item]:
    """A closed loop: each place sends its next request when it has its answer."""
    import asyncio  # noqa: PLC0415 - static batches need it not

    from pytest_slmperf.engines.simulated_time import clock_of  # noqa: PLC0415 - it imports asyncio

    clock, done = clock_of(asyncio.get_running_loop()), list[Item]()
    began_ns, sent = clock(), 0

    async def place(number: int, request: Request) -> None:
        nonlocal sent
        # The first answers have unlike lengths, or all places would go on in step.
        asked = replace(request, output_tokens=max(1, request.output_tokens * (number + 1) // len(batch)))
        while True:
            at_ns = clock()
            answer = await engine.stream(turned(asked, sent), lambda _tokens: None)
            sent += 1
            if answer.output_tokens != asked.output_tokens:
                raise EngineFailed(f"generated {answer.output_tokens} tokens of {asked.output_tokens} asked for")
            done.append((at_ns, clock(), len(asked.prompt), asked.output_tokens, 1))
            if over(clock() - began_ns):
                return
            asked = request

    try:
        async with asyncio.TaskGroup() as group:
            for number, request in enumerate(batch):
                group.create_task(place(number, request))
    except BaseExceptionGroup as several:
        first = several.exceptions[0]
        if isinstance(first, RequestFailed):
            raise EngineFailed(f"a request failed: {first}") from first
        raise first from None
    return done
