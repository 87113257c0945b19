"""`python -m pytest_slmperf.testing.server`."""

import sys

from pytest_slmperf.testing.server.command import main

sys.exit(main())
