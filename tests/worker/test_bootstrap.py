"""The worker starts in any interpreter and loads nothing that only the launch needs."""

import json
import os
import subprocess
import sys

import pytest

from pytest_slmperf.run.process import BOOTSTRAP, PACKAGE

HEAVY = {"numpy", "scipy", "pytest", "psutil", "filelock", "ctranslate2", "torch", "jsonschema_rs", "asyncio"}
LOADS = f"""
import json, sys
sys.path.insert(0, {str(BOOTSTRAP.parent)!r})
import bootstrap
bootstrap.register({str(PACKAGE)!r})
from pytest_slmperf.worker import conversation
from pytest_slmperf.engines import registry
from pytest_slmperf.core.engine import EngineSpec
registry.create(EngineSpec("fake", "tiny")).start()
json.dump([sorted(sys.modules), sys.path], sys.stdout)
"""


@pytest.fixture(scope="module")
def loaded():
    """Modules and path of an interpreter without any site-packages that has loaded the worker and the fake engine."""
    done = subprocess.run([sys.executable, "-I", "-S", "-c", LOADS], capture_output=True, check=True, text=True)
    modules, path = json.loads(done.stdout)
    return set(modules), path


def test_the_worker_needs_nothing_but_the_standard_library(loaded):
    """An engine's environment need hold nothing of ours, and nothing of ours can clash with it."""
    modules, _ = loaded
    assert "pytest_slmperf.engines.fake" in modules
    assert not {name.partition(".")[0] for name in modules} & HEAVY


def test_the_worker_loads_no_room_above_it(loaded):
    """It is core, engines and worker alone, so a start costs little."""
    modules, _ = loaded
    rooms = {name.split(".")[1] for name in modules if name.startswith("pytest_slmperf.")}
    assert rooms == {"core", "engines", "worker"}


def test_our_own_site_packages_do_not_get_onto_its_path(loaded):
    """Else another environment's engine would import our versions of its libraries."""
    _, path = loaded
    assert str(PACKAGE.parent) not in path


def test_a_worker_whose_launch_is_gone_ends_at_once():
    """It doesn't wait for a message that nobody sends."""
    read_end, launchs_end = os.pipe()
    os.close(launchs_end)
    command = [sys.executable, str(BOOTSTRAP), str(PACKAGE), str(read_end), "1", ""]
    try:
        started = subprocess.run(command, pass_fds=(read_end,), check=False, timeout=10, stdout=subprocess.DEVNULL)
    finally:
        os.close(read_end)
    assert started.returncode == 1
