"""Which faults befall which request."""

import random

from pytest_slmperf.testing.server.options import SHARES, Options


class Faults:
    """Draws the faults of each request in turn, the same for the same seed."""

    def __init__(self, options: Options) -> None:
        self._shares = {name: getattr(options, name) for name in SHARES if getattr(options, name)}
        # One generator each, so that one more fault leaves the others where they were.
        self._draws = {name: random.Random(f"{options.seed}/{name}") for name in self._shares}

    def of(self, index: int) -> tuple[str, ...]:
        """Those of the index-th request, counted from one."""
        return tuple(name for name, share in self._shares.items() if self._befalls(name, share, index))

    def _befalls(self, name: str, share: float, index: int) -> bool:
        if share >= 1:
            return index % int(share) == 0
        return self._draws[name].random() < share
