"""What a search for the highest rate costs, and how far it errs: python benchmarks/highest_rate.py [LAUNCHES]

On the fake engine, in simulated time. Each launch has a pace and a noise of its own, and is searched from nowhere, from
the answer of the first launch, and from there after a loss of a fifth. Beside it stands a list of all places 2 % apart,
of which the truth is read: up to where so many would meet as meet in all, since near the limit some miss by chance and
some above them meet. Seconds are those in which requests are sent and answered. Ends with 1 if a way of searching errs
by more than 5 % in the mean.
"""

import math
import sys
from contextlib import closing
from dataclasses import dataclass, field, replace
from statistics import fmean

from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.launch import Load, RoundPolicy
from pytest_slmperf.core.load.prompts import Prompts
from pytest_slmperf.core.protocol import Play
from pytest_slmperf.core.slo import Slo
from pytest_slmperf.core.sweeps.search import Probe, Search
from pytest_slmperf.core.sweeps.sweep import Sweep
from pytest_slmperf.core.sweeps.workload import LogNormal, OpenLoop
from pytest_slmperf.core.units import NS_PER_S
from pytest_slmperf.engines.fake import FakeEngine, behaviour
from pytest_slmperf.run.loads import load_of
from pytest_slmperf.run.searching import ask_for, judged, search, values_of
from pytest_slmperf.worker.sending import play

HOW = Search(4, 32)
STEP = 1 + HOW.within
MOST_ERROR = 0.05
OPTIONS = {"level": 100.0, "knee": 8.0, "launch_noise": 0.01, "noise": 0.01, "seed": 1}
POLICY = RoundPolicy(rounds=1, traffic_s=5.0, observed_requests=100)
LIMITS = {"e2el": Slo(e2el_ms=800), "ttft and tpot": Slo(ttft_ms=2000, tpot_ms=30), "ttft": Slo(ttft_ms=100)}


@dataclass
class Launch:
    """A started engine of one pace, and what its probes took."""

    number: int
    slo: Slo
    slowed: float = 0.0
    probes: int = 0
    seconds: float = 0.0
    prompts: Prompts = field(default_factory=lambda: Prompts(vocabulary=1024, seed=1))

    def __post_init__(self) -> None:
        self.engine = FakeEngine(EngineSpec("fake", "m"), behaviour(OPTIONS), launch=f"candidate/{self.number}")
        self.engine.start()

    def close(self) -> None:
        """End the engine."""
        self.engine.stop()

    def __call__(self, place: float, ask: Play) -> Probe:
        """Send a probe."""
        traffic = play(self.engine, ask, self.prompts, loss=self.slowed)
        self.probes += 1
        self.seconds += (max(one.ended_ns for one in traffic.exchanges) - traffic.began_ns) / NS_PER_S
        return judged(traffic, place, ask, POLICY).probe


def load_with(slo: Slo) -> Load:
    workload = OpenLoop(LogNormal(median=64, spread=0.7, most=256), 32)
    sweep = Sweep("capacity", workload, request_rate=HOW, slo=slo)
    return load_of(sweep, sweep.cases(["m"])[0], 4096, POLICY)[0]


def searched(load: Load, launch: Launch) -> float:
    with closing(launch):
        (found,) = values_of(load, search(load, POLICY, launch.slo, launch) or ())[0].values()
    return found[0]


def exhaustive(load: Load, launch: Launch) -> float:
    """Up to where so many places would meet as meet in all."""
    with closing(launch):
        places = [HOW.low * STEP**step for step in range(math.floor(math.log(HOW.high / HOW.low) / math.log(STEP)))]
        met = sum(launch(place, ask_for(load, place, POLICY, launch.slo)).met for place in places)
    return HOW.low * STEP ** (met - 0.5)


def main() -> int:
    count, worst = int(sys.argv[1]) if len(sys.argv) > 1 else 10, 0.0
    print(f"{'limits':<16}{'from':<24}{'rate':>7}{'probes':>8}{'seconds':>9}{'error, mean':>13}{'at most':>9}")
    for name, slo in LIMITS.items():
        load = load_with(slo)
        first = searched(load, Launch(0, slo))
        ways = {"nowhere": (None, 0.0), "the first's answer": (first, 0.0), "that, slower by 20 %": (first, 0.2)}
        for way, (begin, slowed) in ways.items():
            launches = [Launch(number, slo, slowed) for number in range(count)]
            rates = [searched(replace(load, begin=begin), launch) for launch in launches]
            all_tried = [Launch(number, slo, slowed) for number in range(count)]
            truths = [exhaustive(load, launch) for launch in all_tried]
            errors = [abs(math.log(rate / truth)) for rate, truth in zip(rates, truths, strict=True)]
            worst = max(worst, fmean(errors))
            print(
                f"{name:<16}{way:<24}{fmean(rates):7.2f}{fmean(one.probes for one in launches):8.1f}"
                f"{fmean(one.seconds for one in launches):9.0f}{fmean(errors):13.1%}{max(errors):9.1%}"
            )
        probes, seconds = (fmean(getattr(one, what) for one in all_tried) for what in ("probes", "seconds"))
        print(f"{name:<16}{'all places 2 % apart':<24}{'':>7}{probes:8.1f}{seconds:9.0f}")
    return int(worst > MOST_ERROR)


if __name__ == "__main__":
    sys.exit(main())
