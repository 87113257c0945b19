"""The testing server with a process behind it that computes, as the engine of a server with a front end does."""

import subprocess
import sys

from pytest_slmperf.testing.server.command import main

if __name__ == "__main__":
    subprocess.Popen([sys.executable, "-c", "while True: pass"])  # it ends with the server's group
    sys.exit(main())
