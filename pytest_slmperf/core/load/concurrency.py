"""How many requests are under way at any time: a number that steps up and down."""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise

from pytest_slmperf.core.load.traffic import Exchange


class Steps:
    """A number over time, from steps up and down. It is 0 before the first of them."""

    def __init__(self, changes: Iterable[tuple[int, int]]) -> None:
        """`changes` are (instant in ns, by how much), in any order."""
        by_instant: Counter[int] = Counter()
        for at_ns, change in changes:
            by_instant[at_ns] += change
        self.at_ns = sorted(by_instant)
        self.level = list(accumulate(by_instant[at] for at in self.at_ns))
        """From each instant on."""
        pieces = (
            (after - before) * level for (before, after), level in zip(pairwise(self.at_ns), self.level, strict=False)
        )
        rises = (place if not before else -1 for place, before in enumerate([0, *self.level[:-1]]))
        self._risen = list(accumulate(rises, max))
        """The place at which it last rose from 0, for each."""
        self._area = [0, *accumulate(pieces)]
        """Request-nanoseconds up to each instant."""

    def at(self, at_ns: int) -> int:
        """The number at this instant: after a step, where one is right then."""
        place = bisect_right(self.at_ns, at_ns) - 1
        return self.level[place] if place >= 0 else 0

    def mean(self, from_ns: int, to_ns: int) -> float:
        """The number's mean over a stretch of some length."""
        return (self._until(to_ns) - self._until(from_ns)) / (to_ns - from_ns)

    def peak(self, from_ns: int, to_ns: int) -> int:
        """The largest number in a stretch, without its last instant."""
        within = self.level[bisect_right(self.at_ns, from_ns) : bisect_right(self.at_ns, to_ns - 1)]
        return max(self.at(from_ns), *within) if within else self.at(from_ns)

    def risen_before(self, at_ns: int) -> int:
        """When the number last rose from 0 before this instant; the instant itself where it had not."""
        place = bisect_left(self.at_ns, at_ns) - 1
        if place < 0:
            return at_ns
        return self.at_ns[self._risen[place]] if self.level[place] else at_ns

    def _until(self, at_ns: int) -> int:
        place = bisect_right(self.at_ns, at_ns) - 1
        return self._area[place] + (at_ns - self.at_ns[place]) * self.level[place] if place >= 0 else 0


def under_way(exchanges: Sequence[Exchange]) -> Steps:
    """Requests that were sent and had not ended."""
    return _between((one.sent_ns, one.ended_ns) for one in exchanges)


def in_system(exchanges: Sequence[Exchange]) -> Steps:
    """Requests that had arrived and not ended: also those that waited for a place below the load's limit."""
    return _between((one.arrived_ns, one.ended_ns) for one in exchanges)


def _between(stretches: Iterable[tuple[int, int]]) -> Steps:
    return Steps(change for begin, end in stretches for change in ((begin, 1), (end, -1)))
