"""A server's front end at its limit: what takes its requests and sends its answers, where that is not its engine.

That voids nothing, since no measurement erred: whoever uses the server as it is gets what was measured. It is told,
since behind such a front end an engine may become slower or faster, and nobody sees it.
"""

from collections.abc import Iterable
from statistics import fmean

AT_LIMIT = 0.95
"""Share of a core from which on the busiest thread of a front end has no time left: a thread has one core, and never
all of it, for it has to be woken.
"""


def at_limit(shares: Iterable[float | None]) -> str | None:
    """What is to be said of a front end that used these shares of a core, stretch by stretch; None where it had time
    left, or nobody saw it.
    """
    seen = [share for share in shares if share is not None]
    if not seen or (mean := fmean(seen)) < AT_LIMIT:
        return None
    return (
        f"its front end used {mean:.0%} of a core, all that a thread has: this is what the front end can do, and its "
        "engine may do more"
    )
