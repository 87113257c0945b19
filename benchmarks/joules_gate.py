"""How often the gate errs on joules per token: python benchmarks/joules_gate.py [TRIALS].

Joules per token are power over throughput. From launch to launch both scatter by `--spread` on the log scale, each by
itself (which is the worse case: a launch that is slower usually draws less), and each launch is one window, whose error
is the meter's: the root mean squares of benchmarks/energy_accuracy.py. A stored baseline has 20 launches and a day of
its own (0.7 %); arms that are interleaved share the day. Losses are joules more per token, judged at 3 %.
"""

import argparse
import math
import random
from collections import Counter

from pytest_slmperf.core import gate

TOLERANCE, CAP, STORED = 0.03, 16, 20
LOSSES = (0.0, TOLERANCE, 5 / 3 * TOLERANCE, 2 * TOLERANCE)
METERS = {
    "exact": 0.0,
    "3 s, calls of 3 ms": 0.0007,
    "1 s, calls of 3 ms": 0.0020,
    "3 s, calls of 30 ms": 0.0055,
    "1 s, calls of 30 ms": 0.016,
}
"""Standard deviation of a window's joules per token that is the meter's, rounded, by lengths of window and reading."""


def arm(launches: int, rise: float, spread: float, meter: float, draw: random.Random) -> list[list[float]]:
    """Joules per token, one window a launch."""
    return [
        [math.exp(rise + draw.gauss(0, spread) - draw.gauss(0, spread) + draw.gauss(0, meter))] for _ in range(launches)
    ]


def judged(design: gate.Design, loss: float, spread: float, meter: float, draw: random.Random) -> tuple[str, int]:
    """The final verdict of one gate, and the launches of each arm that it took."""
    day = draw.gauss(0, gate.DAY_SD) if design == "stored" else 0.0
    before = arm(STORED if design == "stored" else CAP, 0.0, spread, meter, draw)
    after = arm(CAP, math.log1p(loss) + day, spread, meter, draw)
    count, more = 0, gate.FIRST_LOOK
    while more:
        count += more
        verdict, more = gate.rule(
            before if design == "stored" else before[:count],
            after[:count],
            tolerance=TOLERANCE,
            higher_is_better=False,
            max_runs=CAP,
            design=design,
        )
    return verdict, count


def row(design: gate.Design, name: str, spread: float, trials: int) -> str:
    """The shares of verdicts at each loss, in per cent, and the launches."""
    seen: dict[float, Counter[str]] = {}
    taken: dict[float, float] = {}
    for loss in LOSSES:
        draw = random.Random(f"{design}{spread}")  # the same noise for every loss and meter
        verdicts = [judged(design, loss, spread, METERS[name], draw) for _ in range(trials)]
        seen[loss] = Counter(verdict for verdict, _ in verdicts)
        taken[loss] = sum(count for _, count in verdicts) / trials
    none, tolerated, found, twice = LOSSES

    def share(loss: float, *verdicts: str) -> float:
        return 100 * sum(seen[loss][verdict] for verdict in verdicts) / trials

    figures = (
        share(none, "regressed"),
        share(none, "inconclusive"),
        share(tolerated, "ok", "improved"),
        share(twice, "ok", "improved"),
        share(found, "regressed"),
        share(twice, "regressed"),
    )
    return f"{''.join(f'{figure:10.2f}' for figure in figures)}{taken[none]:8.1f} / {taken[found]:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("trials", nargs="?", type=int, default=4000)
    parser.add_argument("--spread", type=float, default=0.005, help="sd of power, and of throughput, between launches")
    given = parser.parse_args()
    between = math.sqrt(2) * given.spread
    print(f"tolerance {TOLERANCE:.0%}, launches differ by {between:.2%}, {given.trials} trials a cell; in per cent")
    heads = ("red 0 %", "inc 0 %", "pass 3 %", "pass 6 %", "red 5 %", "red 6 %")
    print(f"{'':12}{'meter':22}{'error':>6}{''.join(f'{head:>10}' for head in heads)}  launches 0 / 5 %")
    for design in gate.DESIGNS:
        for name, error in METERS.items():
            print(f"{design:12}{name:22}{error:6.2%}{row(design, name, given.spread, given.trials)}", flush=True)


if __name__ == "__main__":
    main()
