"""Makes a run of ours of what foreign files hold: several files of one configuration are the launches of one case."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from statistics import fmean

from pytest_slmperf.core.baselines.baseline import instant
from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.errors import UsageError
from pytest_slmperf.core.machine import GPU_UUID, NOT_SAID, Machine, Scalar, shown
from pytest_slmperf.core.metrics import metric
from pytest_slmperf.core.outcome import CaseOutcome, RunOutcome, SweepOutcome
from pytest_slmperf.core.sample import Measurement, Sample, VoidRound
from pytest_slmperf.core.verdict import Status, Verdict
from pytest_slmperf.report.foreign.result import FACTS, Load, Result

ALIKE = 0.02
"""By how much the mean lengths of a case's requests may differ from launch to launch: answers may end by themselves."""
AS_ASKED = 0.1
"""By how much they may differ from what an option says."""
ERRORS = "errors"


@dataclass(frozen=True)
class Said:
    """What the user says of the files. An option wins over a file."""

    suite: str = "imported"
    case: str | None = None
    """Another name for the only case."""
    model: str | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    """Of FACTS."""
    runs_on: str | None = None
    """`cuda` or `cpu`."""
    requests: int | None = None
    """That were sent in each run."""
    batch_size: int | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    gate: Mapping[str, float] = field(default_factory=dict)


Launches = list[list[Result]]
"""Of one case: the rounds of each launch that has it."""


def gathered(files: Sequence[Sequence[Result]], said: Said, saved_at: str) -> RunOutcome:
    """The run that these files are of: each file a launch, and its results of one load the rounds of that launch.

    `saved_at`, ISO 8601, stands for when it was measured where no file says it. Raises UsageError for what belongs into
    several imports, and for what has to be said and isn't.
    """
    files = [[_completed(result, said) for result in results] for results in files]
    if all(results[0].began for results in files):
        files.sort(key=lambda results: _when(results[0].began))  # the gate looks for drift from launch to launch
    _refuse_twins(files)
    everything = [result for results in files for result in results]
    _one("the tool", {result.place: result.tool for result in everything})
    cases: dict[str, Launches] = {}
    for results in files:
        for label in dict.fromkeys(result.load.label for result in results):
            cases.setdefault(label, []).append([one for one in results if one.load.label == label])
    if said.case and len(cases) > 1:
        raise UsageError(f"--case names one case, and these files hold {len(cases)}: {', '.join(cases)}")
    model = _model(everything, said)
    facts = _facts(everything, said)
    outcomes = [_case(launches, said, model, facts) for launches in cases.values()]
    began = sorted(_when(result.began) for result in everything if result.began)
    plural = "s" if len(files) > 1 else ""
    remarks = [f"imported from {len(files)} file{plural} of {everything[0].tool}, each taken for one launch"]
    remarks += _overruled(everything, said)
    if not began:
        remarks.append("no file says when it was measured, so the time of the oldest file stands for it")
    versions = {name: version for result in everything for name, version in result.versions.items() if version}
    sweep = SweepOutcome(
        sweep=said.suite,
        design="stored",
        mode="report",
        cases={outcome.case: outcome for outcome in outcomes},
        specs=(EngineSpec(facts["engine"], model, facts["dtype"]),),
        versions=versions,
        baseline_versions=None,
        launches=len(files),
        seconds=sum(result.seconds for result in everything),
        asked=said.gate,
    )
    machine_fields: dict[str, Scalar] = {GPU_UUID: NOT_SAID} if said.runs_on == "cuda" else {}
    return RunOutcome(
        machine=Machine(facts["device"], facts["driver"], machine_fields),
        sweeps=(sweep,),
        started_at=began[0].isoformat(timespec="seconds") if began else saved_at,
        seconds=sweep.seconds,
        commit=None,
        complete=True,
        remarks=tuple(remarks),
    )


def _when(began: str | None) -> datetime:
    return instant(began or "") or datetime.min.replace(tzinfo=UTC)


def unsaid(run: RunOutcome) -> tuple[str, ...]:
    """Of the facts, those that neither a file nor an option says, as options call them."""
    keys = [case.measurement.key for sweep in run.sweeps for case in sweep.cases.values()]
    known = {**{name: key.get(name) for key in keys for name in key}, **run.machine.flat()}
    named = {"runs_on": [key.get("device") for key in keys], **{name: [known.get(name)] for name in FACTS}}
    return tuple(name.replace("_", "-") for name, found in named.items() if NOT_SAID in found)


def _completed(result: Result, said: Said) -> Result:
    """The result with what an option says of every run. Raises UsageError where that is needed and missing."""
    if result.load.axis == "batch_size":
        lengths = (said.batch_size, said.prompt_tokens, said.output_tokens)
        if None in lengths:
            raise UsageError(
                f"{result.place}: {result.tool} doesn't write what was served: say it with --batch-size, "
                "--prompt-tokens and --output-tokens"
            )
        result = replace(result, load=Load("batch_size", said.batch_size or 0))
    if result.answered is not None:
        if said.requests is None:
            raise UsageError(
                f"{result.place}: {result.tool} doesn't write how many requests were sent, so that nobody sees which "
                "failed: say it with --requests, or import a file with --output-details"
            )
        lost = said.requests - result.answered
        if lost < 0:
            raise UsageError(
                f"{result.place}: {result.answered} requests were answered, and --requests says {said.requests}"
            )
        why = f"{lost} of {said.requests} requests failed, and a failed request is never a fast one" if lost else ""
        load = replace(result.load, key={**result.load.key, "requests": said.requests})
        result = replace(result, failure=result.failure or why, load=load)
    return result


def _refuse_twins(files: Sequence[Sequence[Result]]) -> None:
    """One result twice would be two launches that agree to the last digit."""
    seen: dict[tuple[object, ...], str] = {}
    for result in (result for results in files for result in results):
        same = (result.load.label, result.seconds, result.began, *sorted(result.values.items()))
        if (other := seen.setdefault(same, result.place)) != result.place:
            raise UsageError(f"{other} and {result.place} hold the same result: each launch is imported once")


def _one(what: str, found: Mapping[str, Scalar]) -> None:
    """Raises UsageError where files, by their place, say different things of what one import has only one of."""
    first = next(iter(found))
    for place, value in found.items():
        if value != found[first]:
            raise UsageError(
                f"{what}: {first} has {shown(found[first])}, and {place} has {shown(value)}: import them into two "
                "reports"
            )


def _model(everything: Sequence[Result], said: Said) -> str:
    if said.model:
        return said.model
    found = {result.place: result.model for result in everything if result.model}
    if not found:
        raise UsageError(f"{everything[0].place}: {everything[0].tool} doesn't write the model: say it with --model")
    _one("the model", found)
    return str(next(iter(found.values())))


def _facts(everything: Sequence[Result], said: Said) -> dict[str, str]:
    facts = {}
    for name in FACTS:
        found = {result.place: result.facts[name] for result in everything if name in result.facts}
        if name not in said.facts and found:
            _one(name.replace("_", " "), {one.place: one.facts.get(name, NOT_SAID) for one in everything})
        facts[name] = said.facts.get(name) or next(iter(found.values()), NOT_SAID)
    return facts


def _overruled(everything: Sequence[Result], said: Said) -> Iterator[str]:
    """What a file says otherwise than an option, which wins."""
    for name, option in {**said.facts, "model": said.model}.items():
        found = [(one.place, one.model if name == "model" else one.facts.get(name)) for one in everything]
        for where, value in found:
            if option and value and value != option:
                yield f"{where} says {value} for the {name.replace('_', ' ')}, and {option} was said and is taken"
                break


def _case(launches: Launches, said: Said, model: str, facts: Mapping[str, str]) -> CaseOutcome:
    rounds = [result for launch in launches for result in launch]
    load = rounds[0].load
    for name in {**load.key, **{name: None for one in rounds for name in one.load.key}}:
        _one(f"{name} at {load.label}", {one.place: one.load.key.get(name) for one in rounds})
    spec = EngineSpec(facts["engine"], model, facts["dtype"])
    name = said.case or f"{said.suite}/{spec.model_name}/{load.label}"
    options = {f"option.{name}": value for one in rounds for name, value in one.options.items()}
    for option in options:
        own = option.removeprefix("option.")
        _one(f"{own} at {load.label}", {one.place: one.options.get(own) for one in rounds})
    lengths = {
        "prompt_tokens": _length("prompt_tokens", rounds, said.prompt_tokens),
        "output_tokens": _length("output_tokens", rounds, said.output_tokens),
    }
    key = {
        "engine": facts["engine"],
        "engine_version": facts["engine_version"],
        "model": spec.model_name,
        "device": said.runs_on or NOT_SAID,
        "dtype": facts["dtype"],
        "method": rounds[0].tool,
        **options,
        load.axis: load.at,
        **{name: value for name, value in {**load.key, **lengths}.items() if value is not None},
    }
    measurement = _measurement(name, key, launches)
    judged = {
        full: Verdict(
            Status.UNMEASURED, full, metric(full).unit, metric(full).higher_is_better, name, tolerance,
            reason="it was imported, and nothing judged it", judged=False,
        )
        for full, tolerance in said.gate.items()
    }  # fmt: skip
    coordinates: dict[str, str | float] = {"model": spec.model_name, load.axis: load.at}
    return CaseOutcome(name, coordinates, measurement, None, judged)


def _measurement(name: str, key: Mapping[str, Scalar], launches: Launches) -> Measurement:
    """The samples of the metrics that every round has. A round of which a request failed voids the case."""
    voids = tuple(
        VoidRound(number, ERRORS, f"{result.place}: {result.failure}")
        for number, launch in enumerate(launches)
        for result in launch
        if result.failure
    )
    samples: dict[str, Sample] = {}
    unmeasured: dict[str, str] = {}
    rounds = [result for launch in launches for result in launch]
    for result in rounds:
        unmeasured |= result.unmeasured
    for full in dict.fromkeys(full for result in rounds for full in result.values):
        without = [result.place for result in rounds if full not in result.values]
        if without:
            unmeasured.setdefault(full, f"{without[0]} has no value of it")
            continue
        unmeasured.pop(full, None)
        samples[full] = Sample.of([value for one in launch for value in one.values[full]] for launch in launches)
    notes = {note: None for result in rounds for note in result.notes}
    more = f" (and {len(voids) - 1} more files like it)" if len(voids) > 1 else ""
    return Measurement(
        case=name,
        key=key,
        samples={} if voids else samples,
        unmeasured=unmeasured,
        void_rounds=voids,
        void=f"{voids[0].reason}{more}" if voids else None,
        notes=tuple(notes),
    )


def _length(name: str, rounds: Sequence[Result], asked: int | None) -> Scalar:
    """What was asked for, or else the mean length of a case's requests; None where nobody knows it.

    A mean has two digits, where it isn't the same whole number for all. Raises UsageError where a file says another.
    """
    option = f"--{name.replace('_', '-')}"
    whole = [one for one in rounds if not one.failure]
    means = [(one.place, found) for one in whole if (found := getattr(one.load, name)) is not None]
    if asked is not None:
        for where, mean in means:
            if abs(mean - asked) > AS_ASKED * asked:
                raise UsageError(f"{where}: its requests have {mean:.4g} {name} in the mean, and {option} is {asked}")
        return asked
    if not means:
        return None
    centre = fmean(mean for _, mean in means)
    for where, mean in means:
        if abs(mean - centre) > ALIKE * centre:
            raise UsageError(
                f"{where}: its requests have {mean:.4g} {name} in the mean, and those of all files {centre:.4g}: "
                f"import unlike workloads into two reports, or say {option} where they were meant alike"
            )
    alike = centre == int(centre) and all(mean == centre for _, mean in means)
    return int(centre) if alike else float(f"{centre:.2g}")
