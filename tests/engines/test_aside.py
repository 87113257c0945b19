"""Who hands requests on leaves the cores to those who serve them."""

import subprocess
import sys

STEPS_ASIDE = """
import os, threading
from pytest_slmperf.engines.aside import step_aside
all_cores = os.sched_getaffinity(0)
last = {max(all_cores)}
os.sched_setaffinity(0, last)
ended = threading.Event()
other = threading.Thread(target=ended.wait)
other.start()
step_aside(os.sched_getaffinity(0))
there = all_cores - last or last
print(os.sched_getaffinity(0) == os.sched_getaffinity(other.native_id) == there)
step_aside(all_cores)
print(os.sched_getaffinity(0) == all_cores)
ended.set()
"""


def test_it_goes_to_the_cores_that_its_parent_has_and_nobody_serves_on():
    """With all its threads; where there are none, it shares those that are taken."""
    done = subprocess.run([sys.executable, "-c", STEPS_ASIDE], capture_output=True, text=True, check=True)
    assert done.stdout == "True\nTrue\n", done.stderr
