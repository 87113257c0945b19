"""A server that speaks the OpenAI API on real sockets, in real time, and keeps the truth: for testing a client of one.

    from pytest_slmperf.testing.server import Options, serving

    with serving(Options(step_s=0.01, reset=0.1)) as server:
        measure(server.url)
        truth = server.received()

It runs in a process of its own, so that it shares no event loop and no interpreter with the client.
"""

from pytest_slmperf.testing.server.child import Server, serving
from pytest_slmperf.testing.server.options import Options
from pytest_slmperf.testing.server.truth import Received

__all__ = ["Options", "Received", "Server", "serving"]
