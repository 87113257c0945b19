"""Tables of text, aligned. The only file that imports tabulate."""

from collections.abc import Sequence

from tabulate import tabulate

HEADER_LINES = 2


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()) -> list[str]:
    """Lines of a table: the headers, a rule, then exactly one line for each row.

    Columns named in `right` are aligned to the right. Cells may hold terminal colours; they take no width.
    """
    if not rows:
        return []
    flat = [[" ".join(cell.split()) for cell in row] for row in rows]
    align = ["right" if header in right else "left" for header in headers]
    drawn = tabulate(flat, headers=list(headers), tablefmt="simple", colalign=align, disable_numparse=True)
    return [line.rstrip() for line in drawn.splitlines()]


def width(lines: Sequence[str]) -> int:
    """Columns that these lines take; 0 for none. Meant for lines without colours."""
    return max(map(len, lines), default=0)
