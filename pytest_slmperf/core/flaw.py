"""What keeps a value from outside from being stored, shown or counted with."""

import math

BEYOND = "a whole number beyond 1e308 is none to count with"


def flaw(value: object) -> str | None:
    """Why a text is none of UTF-8, or a number none that a float holds, as `inf is no finite number`; None where it is.

    Python reads a byte that is no UTF-8 as half a surrogate pair, and fails where that is written.
    """
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            return f"{value[error.start]!r} is no character"
    if isinstance(value, (int, float)):
        try:
            return None if math.isfinite(value) else f"{value} is no finite number"
        except OverflowError:
            return BEYOND
    return None
