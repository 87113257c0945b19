"""A server that speaks the OpenAI API on real sockets, in real time, and keeps the truth: for testing a client of one.

    from pytest_slmperf.testing.server import Options, serving

    with serving(Options(step_s=0.01, reset=0.1)) as server:
        measure(server.url)
        truth = server.received()

It runs in a process of its own, so that it shares no event loop and no interpreter with its client. As a command, it
prints its address as one line as soon as it listens; an option's name is written with dashes:

    python -m pytest_slmperf.testing.server --port 8000 --step-s 0.01 --reset 0.1 --truth truth.jsonl

It answers /v1/completions and /v1/chat/completions, streamed or whole, as vLLM's server writes it; /v1/models, /health,
/version and /metrics (vLLM's names). A word of a text counts as a token. It needs the extra `openai`.

The latency model is continuous batching in steps, as a real engine's: a request waits in a queue until the running
batch has room for it, and is admitted where a step begins; a step gives one token to each running request whose prompt
is prefilled, and lasts

    step_s + step_request_s × (running requests − 1) + prefill_token_s × prompt tokens prefilled in this step

Tokens are sent some tenths of a millisecond after the model's time, those of a large batch one after the other at some
20 µs each, and later on a machine that is busy; the truth has the times at which they were sent indeed, and says how
late the latest was.

What is served:

`model` (tiny)
    Its name; a request for another is answered with 404.
`host` (127.0.0.1), `port` (0)
    Where to listen; with port 0 wherever there is room.
`context_tokens` (4096)
    Prompt and output of a request together; 400 for a longer one.
`natural_tokens` (none)
    After so many the model stops by itself, but where a request has `ignore_eos` or enough `min_tokens`.
`tokens_per_chunk` (1)
    Tokens that an event of a stream carries; they wait for each other.
`api_key` (none)
    Asked for as a bearer of every request below /v1; 401 without.
`truth` (none)
    File to which a line of JSON is appended for each request that has ended, as `Received` describes it.

Latency:

`step_s` (0.005), `step_request_s` (0.0001), `prefill_token_s` (0.00001)
    Seconds, as above.
`max_batch` (256)
    Requests that run at once.
`prefill_tokens_per_step` (none)
    So many prompt tokens at most in a step; a longer prompt takes several (chunked prefill).
`noise` (0), `seed` (0)
    Standard deviation (log-normal) of a step's time, and what makes it, and each fault's share, repeatable.
`prefix_cache` (false)
    Whether blocks of 16 prompt tokens that were seen before, with all before them, cost no prefill; usage then tells
    of them.
`kv_tokens` (none)
    Tokens that the running requests may hold together; the youngest goes back to the queue when they would hold more
    (preemption).

The null model, for measuring what a client can send:

`null` (false)
    Answers at once, with tokens that take no time. It keeps no truth, and of the faults it has those of the start only.
`processes` (1), `shares_port` (false)
    So many processes listen at the port, or others may (SO_REUSEPORT).
`events_per_write` (none)
    Events of a stream that are written at once; all of them without it.

Faults of the start:

`listens_after_s` (0)
    For so many seconds a connection is refused; the address is printed before.
`ready_after_s` (0), `never_ready` (false)
    For so many seconds, or for ever, every request is answered with 503.
`out_of_memory` (false), `refuses_model` (false)
    It ends with exit code 1 and the message of a server that has no memory, or doesn't know the model.
`tls` (false), `tls_authority` (none)
    HTTPS, with a certificate of an authority that nobody knows; the file to write that authority's certificate to. It
    needs trustme.

Faults of the process:

`dies_after` (none)
    Requests after which the next one kills it, whatever is under way.
`restarts_after` (none)
    Requests after which the next one makes it start anew at its address, once: connections break off, and /metrics has
    another `process_start_time_seconds`.
`ignores_sigterm` (false)
    It has to be killed.
`until_stdin_closes` (false)
    It stops as its standard input ends: with whoever started it.

Faults of requests, each a share of them up to 1, drawn with the seed, or a whole number n for every n-th:

`too_many_requests`, `unavailable`, `server_error`
    429, 503 and 500.
`html`
    A page instead of an answer, with status 200.
`hang`
    No answer, ever.
`stall`, and `stall_s` (1)
    Nothing for so many seconds in the middle of the answer; what was due meanwhile follows at once.
`reset`
    The connection is reset in the middle of the answer.
`half_event`
    The connection is closed in the middle of an event.
`cut`
    The stream ends in its middle, as HTTP ends one, without the rest of its tokens and without its last events.
`broken_json`
    No event is JSON. An answer that comes whole is half of its JSON then, and with the two above.
`error_event`
    An error object in the middle of a stream, and its end; 500 for an answer that comes whole.
`short`
    Half as many tokens as asked for, and a `finish_reason` of stop.
`endless`
    Tokens without an end.
`wrong_usage`, `no_usage`
    One token more than there were; no word of it.
`other_model`
    The answer names another model.
"""

from pytest_slmperf.testing.server.child import Server, serving
from pytest_slmperf.testing.server.options import Options
from pytest_slmperf.testing.server.truth import Received

__all__ = ["Options", "Received", "Server", "serving"]
