"""What a testing server is told, and what of it can't be."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields

from pytest_slmperf.core.errors import UsageError

SHARES = (
    "stall", "hang", "reset", "half_event", "cut", "wrong_usage", "no_usage", "too_many_requests", "unavailable",
    "server_error", "endless", "html", "broken_json", "error_event", "other_model", "short",
)  # fmt: skip
"""Faults that befall some of the requests."""
COUNTS = (
    "context_tokens", "max_batch", "tokens_per_chunk", "processes", "prefill_tokens_per_step", "kv_tokens",
    "natural_tokens", "events_per_write", "dies_after", "restarts_after",
)  # fmt: skip
OF_NULL = (
    "model", "host", "port", "context_tokens", "tokens_per_chunk", "null", "listens_after_s", "out_of_memory",
    "refuses_model", "tls", "tls_authority", "ignores_sigterm", "until_stdin_closes",
)  # fmt: skip
"""What means something for the null model."""
OF_NULL_ALONE = ("processes", "shares_port", "events_per_write")


@dataclass(frozen=True)
class Options:
    """The options, as the package's docstring describes them. Raises UsageError for a value that can't be."""

    model: str = "tiny"
    host: str = "127.0.0.1"
    port: int = 0
    context_tokens: int = 4096
    api_key: str | None = None
    truth: str | None = None
    step_s: float = 0.005
    step_request_s: float = 0.0001
    prefill_token_s: float = 0.00001
    max_batch: int = 256
    prefill_tokens_per_step: int | None = None
    noise: float = 0.0
    seed: int = 0
    prefix_cache: bool = False
    kv_tokens: int | None = None
    tokens_per_chunk: int = 1
    natural_tokens: int | None = None
    null: bool = False
    processes: int = 1
    shares_port: bool = False
    events_per_write: int | None = None
    listens_after_s: float = 0.0
    ready_after_s: float = 0.0
    never_ready: bool = False
    ignores_sigterm: bool = False
    out_of_memory: bool = False
    refuses_model: bool = False
    dies_after: int | None = None
    restarts_after: int | None = None
    tls: bool = False
    tls_authority: str | None = None
    stall: float = 0.0
    stall_s: float = 1.0
    hang: float = 0.0
    reset: float = 0.0
    half_event: float = 0.0
    cut: float = 0.0
    wrong_usage: float = 0.0
    no_usage: float = 0.0
    too_many_requests: float = 0.0
    unavailable: float = 0.0
    server_error: float = 0.0
    endless: float = 0.0
    html: float = 0.0
    broken_json: float = 0.0
    error_event: float = 0.0
    other_model: float = 0.0
    short: float = 0.0
    until_stdin_closes: bool = False

    def __post_init__(self) -> None:
        if problem := next(self._problems(), None):
            raise UsageError(f"the testing server: {problem}")

    def _problems(self) -> Iterator[str]:
        told = {one.name: getattr(self, one.name) for one in fields(self) if getattr(self, one.name) != one.default}
        for name, value in told.items():
            if isinstance(value, (int, float)) and not (math.isfinite(value) and (value >= 0 or name == "seed")):
                yield f"{name}={value!r}: finite, and not below 0"
            elif name in SHARES and value > 1 and value != int(value):
                yield f"{name}={value!r}: a share of the requests, up to 1, or a whole number n for each n-th request"
            elif name in COUNTS and value < 1:
                yield f"{name}={value!r}: at least 1"
            elif name in OF_NULL_ALONE and not self.null:
                yield f"{name}={value!r}: of the null model only"
            elif self.null and name not in (*OF_NULL, *OF_NULL_ALONE):
                yield f"null and {name}: the null model has no latency, no truth and no such fault"

    def arguments(self) -> list[str]:
        """The command line that says the same."""
        words = []
        for one in fields(self):
            value, flag = getattr(self, one.name), f"--{one.name.replace('_', '-')}"
            if value != one.default:
                words.append(flag if value is True else f"{flag}={value}")
        return words
