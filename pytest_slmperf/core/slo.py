"""A service level objective: which requests count as good."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_slmperf.core.errors import SuiteError

if TYPE_CHECKING:
    from pytest_slmperf.core.load.latency import Answered


@dataclass(frozen=True, slots=True)
class Slo:
    """Limits that a request meets or misses, in milliseconds; a request counts as good where it meets all given.

    As `request_goodput` of DistServe and vLLM has it. A request of one token has no TPOT, and meets that limit.
    """

    ttft_ms: float | None = None
    tpot_ms: float | None = None
    e2el_ms: float | None = None

    def __post_init__(self) -> None:
        given = [limit for limit in (self.ttft_ms, self.tpot_ms, self.e2el_ms) if limit is not None]
        if not given or not all(_above_zero(limit) for limit in given):
            raise SuiteError(f"{self}: it takes one limit at least, each a number of milliseconds above 0")

    def met_by(self, answered: "Answered") -> bool:
        """Whether a request is good; of what it has none, it keeps the limit."""
        return self.need(answered.ttft_ms, answered.tpot_ms, answered.e2el_ms) <= 1

    def need(self, ttft_ms: float, tpot_ms: float | None, e2el_ms: float) -> float:
        """The largest share that a request takes of any limit, of which it keeps all up to 1."""
        seen = ((ttft_ms, self.ttft_ms), (tpot_ms, self.tpot_ms), (e2el_ms, self.e2el_ms))
        return max((value / limit for value, limit in seen if value is not None and limit is not None), default=0.0)


def _above_zero(limit: object) -> bool:
    return isinstance(limit, (int, float)) and not isinstance(limit, bool) and 0 < limit < math.inf
