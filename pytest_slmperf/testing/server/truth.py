"""What became of each request, as the server saw it: the truth that a client's measurements are held to."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any


@dataclass(slots=True)
class Received:
    """A request, and what was sent for it. Times are CLOCK_MONOTONIC, taken just before the bytes were handed over."""

    index: int
    """In the order in which they came, from 1."""
    path: str
    received_ns: int
    """When its head had been read."""
    id: str = ""
    """As its answer names it."""
    streamed: bool = False
    status: int = 200
    faults: tuple[str, ...] = ()
    prompt_tokens: int = 0
    cached_tokens: int = 0
    asked_tokens: int = 0
    admitted_ns: int | None = None
    """When it left the queue and its prefill began."""
    prefilled_ns: int | None = None
    """When its first token was there."""
    chunk_ns: list[int] = field(default_factory=list)
    chunk_tokens: list[int] = field(default_factory=list)
    ended_ns: int | None = None
    """When its answer was whole; None for one that was broken off, by whichever side."""
    late_ns: int = 0
    """By how much the latest of its tokens was sent after the latency model's time: what to doubt a truth by."""

    @property
    def output_tokens(self) -> int:
        """How many were sent."""
        return sum(self.chunk_tokens)

    @property
    def ttft_ns(self) -> int | None:
        """From the request's head to its first token."""
        return self.chunk_ns[0] - self.received_ns if self.chunk_ns else None


def written(received: Received) -> bytes:
    """A line of the file."""
    return json.dumps(asdict(received)).encode() + b"\n"


def read(path: Path) -> list[Received]:
    """The requests of a file, in the order in which they came; a line that is being written is left out."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return sorted((_received(json.loads(line)) for line in lines), key=lambda one: one.received_ns)


def _received(written_down: Mapping[str, Any]) -> Received:
    known = {one.name: written_down[one.name] for one in fields(Received)}
    return Received(**known | {"faults": tuple(known["faults"])})


class TruthFile:
    """The file, to which each request's line is appended at once, by whichever process served it."""

    def __init__(self, path: str | None) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._descriptor = None if path is None else os.open(path, flags, 0o644)

    def keep(self, received: Received) -> None:
        """Write down what became of a request."""
        if self._descriptor is not None:
            os.write(self._descriptor, written(received))
