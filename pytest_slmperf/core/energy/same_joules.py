"""Whether joules of now may be compared with stored ones: the same boards, set as they were, at the same clock."""

import math
from collections.abc import Collection, Mapping
from statistics import fmean, pstdev

from pytest_slmperf.core.devices.board import POWER_LIMIT, BoardFacts
from pytest_slmperf.core.verdict import Status

CLOCK = 0.01
"""Share by which the mean clock may differ from the baseline's."""
POWER_CAPPED = 0.05
"""Share of the rounds by which the time under the power limit may differ from the baseline's. A board that is held back
was seen to lose a fifth of its clock, and joules with it: of a twentieth of the time that is 1 % of them, as much as
another clock may make.
"""
POWER_CAPPED_ERRORS = 3.0
"""Standard errors of the launches by which it may differ at any rate: near its limit a board is held back now more and
now less.
"""


def joules_apart(
    here: Mapping[str, BoardFacts], there: Mapping[str, BoardFacts], clocks_mhz: tuple[float | None, float | None]
) -> tuple[Status, str, str] | None:
    """Why joules of now are not compared with the stored ones, what that is called and how to go on; None where they
    are. What was told of the stored ones and isn't told now has not been seen to be as it was.

    `clocks_mhz` are the means now and then, None where they weren't told.
    """
    if reason := another_board(here, there):
        return Status.INCOMPARABLE, reason, ""
    if reason := another_setting(here, there):
        return Status.VOID, reason, "set it back as it was, or record again"
    if reason := another_power_cap(here, there):
        way_out = "find what it needs another power for (nvidia-smi -q -d PERFORMANCE,POWER), or record again"
        return Status.VOID, reason, way_out
    now_mhz, was_mhz = clocks_mhz
    if now_mhz and was_mhz and (reason := another_clock(now_mhz, was_mhz)):
        return Status.VOID, reason, "find what changed its clock (nvidia-smi -q -d CLOCK), or record again"
    if reason := _untold_now(here, there, clocks_mhz):
        return Status.VOID, reason, "see what this user may not ask for any more (slmperf doctor), or record again"
    return None


def _untold_now(
    here: Mapping[str, BoardFacts], there: Mapping[str, BoardFacts], clocks_mhz: tuple[float | None, float | None]
) -> str | None:
    for uuid, now in here.items():
        was = there[uuid]
        if was.power_limit_w and not now.power_limit_w:
            return f"{uuid}: its power limit isn't told, and was {was.power_limit_w:.4g} W for the baseline"
        if was.power_capped and not now.power_capped:
            shares = f"{fmean(was.power_capped):.1%} of the baseline's rounds"
            return f"{uuid}: how long its power limit held it back isn't told, and was for {shares}"
    now_mhz, was_mhz = clocks_mhz
    return f"its clock isn't told, and was {was_mhz:,.0f} MHz for the baseline" if was_mhz and not now_mhz else None


def another_board(here: Collection[str], there: Collection[str]) -> str | None:
    """Why joules of these boards and of those are reported and not gated, or None where they are the same boards."""
    if set(here) == set(there):
        return None
    return (
        f"measured on {', '.join(sorted(here))} and compared with {', '.join(sorted(there))}: the power sensors of two "
        "boards differ by up to 5 %, so joules are reported and not gated; where the card changes from job to job, an "
        "A/B run gates them"
    )


def another_setting(here: Mapping[str, BoardFacts], there: Mapping[str, BoardFacts]) -> str | None:
    """Why joules of the same boards can't be compared: another power limit, or another source. None where they can."""
    for uuid, now in here.items():
        was = there.get(uuid)
        if was is None:
            continue
        if now.source != was.source:
            return f"{uuid}: its joules come from {now.source}, and the baseline's from {was.source}"
        now_w, was_w = now.power_limit_w, was.power_limit_w
        if now_w and was_w and abs(now_w / was_w - 1) > POWER_LIMIT:
            return f"{uuid}: its power limit is {now_w:.4g} W, and was {was_w:.4g} W for the baseline"
    return None


def another_clock(now_mhz: float, was_mhz: float) -> str | None:
    """Why joules at these two clocks can't be compared, or None. 1,605 MHz instead of 1,980 were seen to change them by
    20 %, at the same throughput.
    """
    if abs(now_mhz / was_mhz - 1) <= CLOCK:
        return None
    return f"its clock was {now_mhz:,.0f} MHz in the mean, and {was_mhz:,.0f} MHz for the baseline"


def another_power_cap(here: Mapping[str, BoardFacts], there: Mapping[str, BoardFacts]) -> str | None:
    """Why joules of the same boards can't be compared: the power limit held one back for another share of the time.
    None where it didn't, or where a driver doesn't tell. How far shares scatter is what the stored launches say.
    """
    for uuid, facts in here.items():
        now, was = facts.power_capped, there[uuid].power_capped if uuid in there else ()
        if not now or not was:
            continue
        error = pstdev(was) * math.sqrt(1 / len(now) + 1 / len(was))
        if abs(fmean(now) - fmean(was)) > max(POWER_CAPPED, POWER_CAPPED_ERRORS * error):
            return (
                f"{uuid}: its power limit held it back for {fmean(now):.1%} of the rounds, and for {fmean(was):.1%} of "
                "the baseline's"
            )
    return None
