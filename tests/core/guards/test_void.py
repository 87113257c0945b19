"""What helps against a guard that threw a measurement away."""

import ast
from pathlib import Path

import pytest

import pytest_slmperf
from pytest_slmperf.core.guards.void import WAYS_OUT, way_out

PACKAGE = Path(pytest_slmperf.__file__).parent
JUDGES = ("core/guards/board.py", "core/devices/edges.py", "core/guards/traffic.py", "run/guards.py", "run/metering.py")
"""Files whose guards throw rounds away."""


def voiding(path):
    """Names of the guards that a file lets void a round: `Void("contended", …)`, `_void("ecc", …)` and the like."""
    for call in ast.walk(ast.parse((PACKAGE / path).read_text())):
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.args):
            continue
        voids = call.func.id in {"Void", "_void"} or "Effect.VOID" in map(ast.unparse, call.args)
        if voids and isinstance(call.args[0], ast.Constant):
            yield call.args[0].value


def test_every_guard_that_voids_has_a_way_out_and_none_is_for_nobody():
    """A name that is told in a round stands in the table; `temperature` is told with an effect of its own."""
    assert {name for path in JUDGES for name in voiding(path)} | {"temperature"} == WAYS_OUT.keys()


@pytest.mark.parametrize("guard", sorted(WAYS_OUT.keys() - {"contended", "foreign", "package", "slowed"}))
def test_who_was_not_disturbed_by_others_is_not_told_to_send_them_away(guard):
    """Other work is the cause that four guards know; the way out of the rest names something else."""
    assert "free" not in way_out(guard)


def test_a_void_without_a_guard_is_repeated():
    """Where a file says why a case is void and not by which guard, nobody is blamed."""
    assert way_out("").startswith("run again")
