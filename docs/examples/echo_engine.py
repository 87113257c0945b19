# ruff: noqa: INP001 - an example lies outside of any package
"""The smallest engine that can be measured: it answers each prompt with as many tokens as were asked for."""

import time
from collections.abc import Sequence

from pytest_slmperf.core.engine import Engine, EngineFacts, EngineSpec, Request, Served
from pytest_slmperf.core.errors import EngineUnavailable


class Echo:
    """Generates nothing, but says so in `device`: nobody can mistake its figures for a model's."""

    def start(self) -> EngineFacts:
        """Be ready at once."""
        return EngineFacts(
            version="1.0",
            device="simulated",
            dtype="float32",
            weights="random",
            context_tokens=1_024,
            vocabulary=512,
        )

    def serve(self, batch: Sequence[Request], *, observe: bool) -> Served:
        """Answer all requests at once, then wait a microsecond for each token."""
        started_ns = time.monotonic_ns()
        tokens = tuple(request.output_tokens for request in batch)
        time.sleep(sum(tokens) / 1e6)
        ended_ns = time.monotonic_ns()
        token_ns = tuple((ended_ns,) * count for count in tokens) if observe else None
        return Served(started_ns, ended_ns, tokens, token_ns)

    def stop(self) -> None:
        """Nothing was taken."""


def create(spec: EngineSpec) -> Engine:
    """What the entry point names; `spec` holds model, dtype, threads and options."""
    if spec.options:
        raise EngineUnavailable(f"echo has no options, but was given {', '.join(spec.options)}")
    return Echo()
