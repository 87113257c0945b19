"""One case in an engine's process: the memory it takes, warm up, and rounds."""

from collections.abc import Sequence
from itertools import pairwise

from pytest_slmperf.core.engine import Engine, EngineFacts, Request, Served, work_of
from pytest_slmperf.core.launch import Load
from pytest_slmperf.core.load.prompts import prompts
from pytest_slmperf.core.protocol import Measured, PeakMeasured, Prepared
from pytest_slmperf.core.units import NS_PER_S
from pytest_slmperf.engines.company import NOBODY, Company
from pytest_slmperf.worker.memory import forget_peak, peak_bytes
from pytest_slmperf.worker.pace import STEP_SHARE, batches_for, pace_s, steady


class WrongAnswer(Exception):
    """An engine generated other numbers of tokens than it was asked for."""


class Case:
    """A load on a started engine. Lives until the next one is made."""

    def __init__(self, engine: Engine, load: Load, facts: EngineFacts, company: Company = NOBODY) -> None:
        """The `company` is under its own loads while this one is warmed up and measured."""
        self._engine = engine
        self._company = company
        self._device = facts.device
        self._own_process = facts.own_process
        self._requests = prompts(load.lengths, vocabulary=facts.vocabulary, seed=load.seed)
        self._prompt_tokens = sum(len(request.prompt) for request in self._requests)
        self._output_tokens = sum(request.output_tokens for request in self._requests)

    def measure_peak(self) -> PeakMeasured:
        """The most memory while the batch is served once: the engine's word, or on a CPU what the kernel tells.

        The kernel knows the process's own memory only: it would be read, and gated, as another device's or a server's.
        Half of the batch goes first: an allocator places its first large blocks otherwise than later ones, and a case
        that is measured alone was seen to read 8 % higher than beside a smaller one.
        """
        self._serve(self._requests[: (len(self._requests) + 1) // 2], 1, observe=False)
        no_peak = forget_peak()
        told = self._serve(self._requests, 1, observe=False)[0].peak_memory_bytes
        if told is not None:
            return PeakMeasured(told)
        if self._device != "cpu" or not self._own_process:
            return PeakMeasured(None, f"the engine doesn't say how much memory of the device ({self._device}) it takes")
        if no_peak:
            return PeakMeasured(None, no_peak)
        try:
            return PeakMeasured(peak_bytes())
        except OSError as error:
            return PeakMeasured(None, f"the kernel does not tell it here ({error})")

    def prepare(self, round_s: float, warmup_limit: int) -> Prepared:
        """Serve until the pace is steady, `warmup_limit` steps at most.

        A step is one batch, or as many as last a twentieth of a round.
        """
        steps_s: list[float] = []
        in_step, started_ns, ended_ns = 1, 0, 0
        self._company.begin()
        while len(steps_s) < warmup_limit and not steady(steps_s):
            served = self._serve(self._requests, in_step, observe=False)
            started_ns, ended_ns = started_ns or served[0].started_ns, served[-1].ended_ns
            step_s = (ended_ns - served[0].started_ns) / NS_PER_S
            steps_s.append(step_s / in_step)
            in_step = batches_for(steps_s[-1:], STEP_SHARE * round_s)
        self._company.end(started_ns, ended_ns)
        return Prepared(
            batches_for(steps_s, round_s),
            steps=len(steps_s),
            steady=steady(steps_s),
            batch_s=pace_s(steps_s),
            started_ns=started_ns,
            ended_ns=ended_ns,
        )

    def round(self, batches: int, *, observe: bool, marks: bool = False) -> Measured:
        """Serve that many batches without a pause."""
        self._company.begin()
        served = self._serve(self._requests, batches, observe=observe)
        beside = self._company.end(served[0].started_ns, served[-1].ended_ns)
        return Measured(
            started_ns=served[0].started_ns,
            ended_ns=served[-1].ended_ns,
            requests=len(self._requests) * batches,
            prompt_tokens=self._prompt_tokens * batches,
            output_tokens=self._output_tokens * batches,
            observed=tuple(served) if observe else (),
            marks=tuple((one.started_ns, one.ended_ns) for one in served) if marks else (),
            replicas=work_of([one.replicas for one in served]),
            beside=beside,
        )

    def _serve(self, requests: Sequence[Request], batches: int, *, observe: bool) -> list[Served]:
        serve = self._engine.serve
        served = [serve(requests, observe=observe) for _ in range(batches)]
        for batch in served:  # only now: nothing but the engine works between two batches
            check(requests, batch, observe=observe)
        return served


def check(requests: Sequence[Request], batch: Served, *, observe: bool) -> None:
    """Raise WrongAnswer unless every request got exactly the tokens it asked for, in a time that can be."""
    asked = tuple(request.output_tokens for request in requests)
    if batch.output_tokens != asked:
        given = batch.output_tokens
        if len(given) != len(asked):
            raise WrongAnswer(f"answered {len(given)} requests where {len(asked)} were sent")
        which = next(place for place, tokens in enumerate(given) if tokens != asked[place])
        raise WrongAnswer(
            f"generated {given[which]} tokens for request {which + 1} of {len(asked)}, which asked for {asked[which]}"
        )
    if batch.ended_ns <= batch.started_ns:
        raise WrongAnswer("a batch took no time")
    if not observe:
        return
    stamps = batch.token_ns or ()
    if tuple(len(times) for times in stamps) != asked:
        raise WrongAnswer("a batch was to be observed, and not every token has its time")
    if any(times[0] < batch.started_ns for times in stamps):
        raise WrongAnswer("a token has a time before its batch began")
    if any(times[-1] > batch.ended_ns for times in stamps):
        raise WrongAnswer("a token has a time after its batch ended")
    if any(after < before for times in stamps for before, after in pairwise(times)):
        raise WrongAnswer("the times of a request's tokens are out of order")
