"""What a person sees of the gate: how often a run of 50 metrics is red without a change, and what confirmation costs.

    python benchmarks/gate_runs.py --gatebench ~/gatebench/gatebench.py [--runs 1000] [--only normal_small,bimodal]

Noise models come from gatebench, so that whoever doubts the gate can bring their own. Three tables are printed:

runs        per model and design: runs of 50 metrics without a change that hold a `regressed`, before and after
            confirmation in fresh launches, with the one-sided 95 % bound; runs that hold an `inconclusive`; and, with a
            loss of 5/3 of the tolerance, the share of metrics found before and after.
supported   per model: which tolerance `supported_tolerance` names for 20 launches, and how often a stored gate without
            a change is then decided.
mde         per model: the MDE that a verdict names, and the share of such losses that is found.

Half of a run's metrics are independent; the others come in groups of five that share their launches' noise (and their
day) and add a little of their own. The fresh launches follow the first ones in the same session, on the same day.
"""

import argparse
import importlib.util
import math
import sys
import zlib
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
from scipy.special import betaincinv

from pytest_slmperf.core import gate
from pytest_slmperf.core.judging.tolerance import TOLERANCES, supported_tolerance
from pytest_slmperf.core.metrics import metric
from pytest_slmperf.core.sample import Sample
from pytest_slmperf.core.verdict import Status, Verdict

METRICS = 50
GROUPS, GROUP = 5, 5
OWN_SD = 0.003
BASELINE_LAUNCHES = 20
THROUGHPUT = metric("output_throughput")


@cache
def gatebench(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("gatebench", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def upper_bound(events: int, trials: int) -> float:
    """One-sided 95 % bound of a rate (Clopper and Pearson)."""
    return 1.0 if events == trials else float(betaincinv(events + 1, trials - events, 0.95))


def noise(bench, model, random, runs, options) -> tuple[np.ndarray, np.ndarray]:
    """Log slowdowns of both arms, (runs, metrics, launches, rounds); arm length allows for the fresh launches."""
    policy = gate.Policy(options.tolerance, options.launches, options.design)
    length = options.launches + gate.first_launches(policy)
    sources = METRICS - GROUPS * GROUP + GROUPS
    arms = bench.simulate(
        model, random, runs * sources, options.design,
        max_runs=length, rounds=options.rounds, baseline_runs=BASELINE_LAUNCHES,
    )  # fmt: skip
    spread = []
    for arm in arms:
        each = arm.reshape(runs, sources, *arm.shape[1:])
        grouped = np.repeat(each[:, -GROUPS:], GROUP, axis=1)
        grouped = grouped + OWN_SD * random.standard_normal(grouped.shape)
        spread.append(np.concatenate([each[:, :-GROUPS], grouped], axis=1))
    return spread[0], spread[1]


def rates(slowdown: np.ndarray) -> tuple[tuple[float, ...], ...]:
    return tuple(map(tuple, (100 * np.exp(-slowdown)).tolist()))


def gated(baseline, candidate, policy) -> tuple[Verdict, Verdict]:
    """The first verdict and the confirmed one, as a run reaches them."""
    stored = policy.design == "stored"
    count = fresh = gate.first_launches(policy)
    while True:
        before = Sample(baseline if stored else baseline[:count])
        after = Sample(candidate[:count])
        verdict = gate.judge(THROUGHPUT, before, after, policy)
        more = gate.more_launches(verdict, before, after, policy)
        if not more:
            break
        count += more
    if verdict.status is not Status.REGRESSED:
        return verdict, verdict
    before = Sample(baseline if stored else baseline[count : count + fresh])
    again = gate.judge(THROUGHPUT, before, Sample(candidate[count : count + fresh]), gate.confirmation(policy))
    return verdict, gate.confirm(verdict, again)


def runs_chunk(task) -> Counter:
    name, runs, chunk, loss, options = task
    bench = gatebench(options.gatebench)
    model = bench.load_models(options.models)[name]
    random = np.random.default_rng([options.seed, zlib.crc32(name.encode()), chunk])
    policy = gate.Policy(options.tolerance, options.launches, options.design)
    before, after = noise(bench, model, random, runs, options)
    after = after - math.log1p(-loss)
    seen = Counter()
    for run in range(runs):
        verdicts = [gated(rates(b), rates(c), policy) for b, c in zip(before[run], after[run], strict=True)]
        first = sum(verdict.status is Status.REGRESSED for verdict, _ in verdicts)
        held = sum(verdict.status is Status.REGRESSED for _, verdict in verdicts)
        undecided = sum(verdict.status is Status.INCONCLUSIVE for _, verdict in verdicts)
        seen.update(runs=1, metrics=METRICS, first=first, held=held, undecided=undecided)
        seen.update(red_first=first > 0, red_held=held > 0, undecided_runs=undecided > 0)
    return seen


def supported_chunk(task) -> Counter:
    name, trials, chunk, _, options = task
    bench = gatebench(options.gatebench)
    model = bench.load_models(options.models)[name]
    random = np.random.default_rng([options.seed, 1, zlib.crc32(name.encode()), chunk])
    arms = bench.simulate(
        model, random, trials, "stored",
        max_runs=options.launches, rounds=options.rounds, baseline_runs=BASELINE_LAUNCHES,
    )  # fmt: skip
    seen = Counter()
    for before, after in zip(*arms, strict=True):
        baseline = rates(before)
        policy = gate.Policy(options.tolerance, options.launches, "stored")
        tolerance = supported_tolerance(Sample(baseline), THROUGHPUT, policy)
        seen[tolerance] += 1
        if tolerance is not None:
            verdict, _ = gated(baseline, rates(after), gate.Policy(tolerance, options.launches, "stored"))
            seen["decided"] += verdict.passed
    return seen


def mde_rows(name, options) -> tuple[float, float]:
    """The median MDE of full samples without a change, and the share of such a loss that is found in full samples."""
    bench = gatebench(options.gatebench)
    model = bench.load_models(options.models)[name]
    random = np.random.default_rng([options.seed, 2, zlib.crc32(name.encode())])
    policy = gate.Policy(options.tolerance, options.launches, options.design)
    before, after = bench.simulate(
        model, random, options.trials, options.design,
        max_runs=options.launches, rounds=options.rounds, baseline_runs=BASELINE_LAUNCHES,
    )  # fmt: skip
    samples = [Sample(rates(arm)) for arm in before]
    plain = [gate.judge(THROUGHPUT, b, Sample(rates(a)), policy) for b, a in zip(samples, after, strict=True)]
    mde = float(np.median([verdict.effect.mde for verdict in plain]))
    if not mde < 1:
        return mde, math.nan
    lost = after - math.log1p(-mde)
    found = [gate.judge(THROUGHPUT, b, Sample(rates(a)), policy) for b, a in zip(samples, lost, strict=True)]
    return mde, sum(verdict.status is Status.REGRESSED for verdict in found) / len(found)


def spread(pool, work, name, total, loss, options) -> Counter:
    size = 25
    tasks = [(name, min(size, total - start), start, loss, options) for start in range(0, total, size)]
    return sum(pool.map(work, tasks), Counter())


def print_runs(pool, names, options) -> None:
    loss = options.tolerance * 5 / 3
    print(
        f"\nruns of {METRICS} metrics, {options.design}, tolerance {options.tolerance:.0%}, {options.runs} runs a model"
    )
    print(f"{'':<18}{'red without a change, % of runs':^36}{'inconcl.':>10}   found at {loss:.1%} loss, % of metrics")
    print(
        f"{'model':<18}{'first':>8}{'confirmed':>11}{'(95 % bound)':>15}{'% of runs':>12}{'first':>12}{'confirmed':>11}"
    )
    for name in names:
        calm = spread(pool, runs_chunk, name, options.runs, 0.0, options)
        slow = spread(pool, runs_chunk, name, max(25, options.runs // 10), loss, options)
        runs = calm["runs"]
        print(
            f"{name:<18}{100 * calm['red_first'] / runs:8.2f}{100 * calm['red_held'] / runs:11.2f}"
            f"{100 * upper_bound(calm['red_held'], runs):13.2f}  {100 * calm['undecided_runs'] / runs:12.1f}"
            f"{100 * slow['first'] / slow['metrics']:12.1f}{100 * slow['held'] / slow['metrics']:11.1f}",
            flush=True,
        )


def print_supported(pool, names, options) -> None:
    print(f"\nsupported tolerance from {BASELINE_LAUNCHES} launches, {options.trials} baselines a model, stored")
    print(f"{'model':<18}{'decided %':>10}   share of baselines that support …")
    for name in names:
        seen = spread(pool, supported_chunk, name, options.trials, 0.0, options)
        named = options.trials - seen[None]
        shares = [f"{grid:.0%}: {100 * seen[grid] / options.trials:.0f}" for grid in TOLERANCES if seen[grid]]
        shares += [f"none: {100 * seen[None] / options.trials:.0f}"] if seen[None] else []
        print(
            f"{name:<18}{100 * seen['decided'] / named if named else math.nan:10.1f}   {', '.join(shares)}", flush=True
        )


def print_mde(names, options) -> None:
    print(f"\nMDE with {options.launches} launches, {options.design}, tolerance {options.tolerance:.0%}")
    print(f"{'model':<18}{'MDE %':>8}{'found %':>10}")
    for name in names:
        mde, found = mde_rows(name, options)
        print(f"{name:<18}{100 * mde:8.1f}{100 * found:10.1f}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gatebench", required=True, help="path of gatebench.py, whose noise models are used")
    parser.add_argument("--models", help="file with further models, in gatebench's form")
    parser.add_argument("--only", help="comma-separated names of models")
    parser.add_argument("--table", choices=("runs", "supported", "mde"), action="append")
    parser.add_argument("--design", choices=("interleaved", "stored"), action="append")
    parser.add_argument("--runs", type=int, default=1000, help="runs without a change per model")
    parser.add_argument("--trials", type=int, default=500, help="baselines or samples per model of the other tables")
    parser.add_argument("--tolerance", type=float, default=0.03)
    parser.add_argument("--launches", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    options.gatebench = str(Path(options.gatebench).resolve())
    names = list(
        gatebench(options.gatebench).load_models(options.models, only=options.only and options.only.split(","))
    )
    tables, designs = options.table or ("runs", "supported", "mde"), options.design or ("interleaved", "stored")
    with ProcessPoolExecutor(options.jobs) as pool:
        for options.design in designs:
            if "runs" in tables:
                print_runs(pool, names, options)
            if "mde" in tables:
                print_mde(names, options)
        if "supported" in tables:
            print_supported(pool, names, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
