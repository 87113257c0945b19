"""An engine under a load of its own, for as long as somebody else is measured beside it."""

import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from pytest_slmperf.core.beside import Beside, overloaded
from pytest_slmperf.core.engine import Engine, EngineFacts, Request, StreamingEngine
from pytest_slmperf.core.errors import EngineFailed, EngineUnavailable, RequestFailed
from pytest_slmperf.core.load.prompts import prompts
from pytest_slmperf.core.units import NS_PER_S
from pytest_slmperf.engines.streaming import turned
from pytest_slmperf.worker.serving import WrongAnswer, check

if TYPE_CHECKING:
    from collections.abc import Sequence

Item: TypeAlias = tuple[int, int, int, int, int, int]
"""A batch, or a request: when it began and ended, its prompt and output tokens, its requests, and when the first part
of the answer was there; 0 of a batch. See `core.beside.NeighbourWork`."""
Over: TypeAlias = Callable[[int], bool]
"""Whether the load is to end, after so many nanoseconds; asked before each batch or request, and while none is due."""
SEED = 17
LOOK_EVERY_S = 0.05
"""Whether the load is to end, while no request is due."""


def under_load(
    engine: Engine,
    facts: EngineFacts,
    load: Beside,
    *,
    over: Over,
    begins: Callable[[], None] = lambda: None,
    turn: int = 0,
) -> tuple[int, tuple[Item, ...]]:
    """Say that it `begins`, and serve it until that is over and what was under way is answered; at least one batch, or
    one request at each place. Requests that arrive at a rate are drawn anew for each `turn`.

    Returns when it began, in nanoseconds of the engine's clock, and what was served. Raises EngineFailed for a wrong
    answer.
    """
    places = load.batch_size or load.concurrency or 1
    batch = prompts([(load.prompt_tokens, load.output_tokens)] * places, vocabulary=facts.vocabulary, seed=SEED)
    if load.batch_size:
        begins()
        began_ns, done = _batches(engine, batch, over)
    elif not isinstance(engine, StreamingEngine):
        raise EngineUnavailable("it serves static batches only: give it batch_size=… in place of its load")
    elif load.request_rate:
        began_ns, done = engine.run(_arriving(engine, batch[0], load, _gaps_ns(load.request_rate, turn), over, begins))
    else:
        began_ns, done = engine.run(_taken(engine, batch, over, begins))
    return began_ns, tuple(sorted(done))


def since(zero_ns: int, item: Item) -> Item:
    """With its times counted from then on."""
    at, ended, prompt_tokens, output_tokens, requests, first = item
    return at - zero_ns, ended - zero_ns, prompt_tokens, output_tokens, requests, first and first - zero_ns


def _batches(engine: Engine, batch: "Sequence[Request]", over: Over) -> tuple[int, list[Item]]:
    prompt_tokens = sum(len(request.prompt) for request in batch)
    done: list[Item] = []
    while not done or not over(done[-1][1] - done[0][0]):
        served = engine.serve(batch, observe=False)
        try:
            check(batch, served, observe=False)
        except WrongAnswer as error:
            raise EngineFailed(f"wrong answer: {error}") from error
        done.append((served.started_ns, served.ended_ns, prompt_tokens, sum(served.output_tokens), len(batch), 0))
    return done[0][0], done


async def _taken(
    engine: StreamingEngine, batch: "Sequence[Request]", over: Over, begins: Callable[[], None]
) -> tuple[int, list[Item]]:
    """A closed loop: each place sends its next request when it has its answer. It has begun when all have sent one."""
    import asyncio  # noqa: PLC0415 - static batches need it not

    from pytest_slmperf.engines.simulated_time import clock_of  # noqa: PLC0415 - it imports asyncio

    clock, done = clock_of(asyncio.get_running_loop()), list[Item]()
    began_ns, sent = clock(), 0

    async def place(number: int, request: Request) -> None:
        nonlocal sent
        # The first answers have unlike lengths, or all places would go on in step.
        asked = replace(request, output_tokens=max(1, request.output_tokens * (number + 1) // len(batch)))
        while True:
            number, sent = sent, sent + 1
            done.append(await _answered(engine, turned(asked, number), clock(), clock))
            if over(clock() - began_ns):
                return
            asked = request

    with _first_error():
        async with asyncio.TaskGroup() as group:
            for number, request in enumerate(batch):
                group.create_task(place(number, request))
            await asyncio.sleep(0)
            begins()
    return began_ns, done


def _gaps_ns(rate: float, turn: int) -> Iterator[int]:
    """Of a Poisson process, without end: the same for the same turn, on every machine."""
    draw = random.Random(f"beside {SEED} {turn}")
    while True:
        yield int(-math.log(1 - draw.random()) / rate * NS_PER_S)


async def _arriving(
    engine: StreamingEngine,
    request: Request,
    load: Beside,
    gaps_ns: Iterator[int],
    over: Over,
    begins: Callable[[], None],
) -> tuple[int, list[Item]]:
    """An open loop: each request is sent when it is due, whether or not others have ended.

    It has begun when the first is answered: as many are under way by then as the rate has it. Raises EngineFailed as
    soon as it is seen to be asked for far more than it can serve.
    """
    import asyncio  # noqa: PLC0415 - as above

    from pytest_slmperf.engines.simulated_time import clock_of  # noqa: PLC0415 - as above

    clock, done = clock_of(asyncio.get_running_loop()), list[Item]()
    begun_ns: list[int] = []
    zero_ns = due_ns = clock()
    number, sending = 0, True

    async def one(request: Request, due_ns: int) -> None:
        done.append(await _answered(engine, request, due_ns, clock))
        if not begun_ns:
            begun_ns.append(clock())
            begins()

    async def watch() -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            now_ns, from_ns = clock(), begun_ns[0] if begun_ns else zero_ns
            unsent = (load.request_rate or 0.0) * max(0, now_ns - due_ns) / NS_PER_S if sending else 0.0
            why = overloaded(
                load,
                waiting=number - len(done) + int(unsent),
                answered=max(0, len(done) - 1),
                in_s=(now_ns - from_ns) / NS_PER_S,
                first_s=(from_ns - zero_ns) / NS_PER_S if begun_ns else math.inf,
            )
            if why:
                raise EngineFailed(why)

    with _first_error():
        async with asyncio.TaskGroup() as around:
            watching = around.create_task(watch())
            with _first_error():
                async with asyncio.TaskGroup() as group:
                    while not begun_ns or not over(clock() - begun_ns[0]):
                        left_ns = due_ns - clock()
                        if left_ns > 0:
                            await asyncio.sleep(min(left_ns / NS_PER_S, LOOK_EVERY_S))
                            continue
                        group.create_task(one(turned(request, number), due_ns))
                        number, due_ns = number + 1, due_ns + next(gaps_ns)
                        await asyncio.sleep(0)
                    sending = False
            watching.cancel()
    return begun_ns[0], done


async def _answered(engine: StreamingEngine, request: Request, at_ns: int, clock: Callable[[], int]) -> Item:
    """Send a request that is due at `at_ns`, and wait for its answer. Raises EngineFailed for another length."""
    first_ns = 0

    def stamp(_tokens: int) -> None:
        nonlocal first_ns
        first_ns = first_ns or clock()

    answer = await engine.stream(request, stamp)
    if answer.output_tokens != request.output_tokens:
        raise EngineFailed(f"generated {answer.output_tokens} tokens of {request.output_tokens} asked for")
    ended_ns = clock()
    return at_ns, ended_ns, len(request.prompt), request.output_tokens, 1, first_ns or ended_ns


@contextmanager
def _first_error() -> Iterator[None]:
    """Of several tasks: raised as an engine raises it."""
    try:
        yield
    except BaseExceptionGroup as several:
        first = several.exceptions[0]
        if isinstance(first, RequestFailed):
            raise EngineFailed(f"a request failed: {first}") from first
        raise first from None
