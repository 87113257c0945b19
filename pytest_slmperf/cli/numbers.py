"""Numbers of the command line, as types of its arguments."""

import argparse


def whole(text: str) -> int:
    """A whole number of at least 1."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: it takes a whole number of at least 1")
    return number


def counts(text: str) -> tuple[int, ...]:
    """Several of them."""
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        found = (0,)
    if min(found) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: it takes whole numbers of at least 1, as in 1,16")
    return found


def rates(text: str) -> tuple[float, ...]:
    """Several numbers."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: it takes numbers, as in 0.5,2") from error
