"""Our client beside those of vLLM, GuideLLM and AIPerf: how much it sends, how well it measures, how late it sends.

    python benchmarks/client.py speed [--vllm PYTHON] [--guidellm PROGRAM] [--aiperf PROGRAM] [--pairs 5]
    python benchmarks/client.py accuracy [--vllm PYTHON] [--guidellm PROGRAM] [--aiperf PROGRAM]
    python benchmarks/client.py lateness [--seconds 20]

speed     Highest request rate (16 + 1 tokens, 32 at once), and streamed tokens per second (16 + 512, 16 at once), each
          event written by itself and all of them at once. The server is `python -m pytest_slmperf.testing.server
          --null`, pinned to one core, and the client to another. Each run is a process of its own, tools in turn; what
          starting costs is taken out by the difference of a run of N and one of 3·N requests: of its time, and of the
          processor time of the client with all its children. A start of seconds varies by tenths of them, so N is to be
          large: a tool whose longer run took no more is not measured. Median of the pairs, and their range. `limit` is
          whoever had a core for 90 % of the time or more; where that is the server, the client's own highest rate is
          told by its processor time alone, `a client core`.
accuracy  TTFT, ITL, TPOT and E2EL as each tool tells them, less those that the server knows of the same requests, from
          when it had read a request's head to when it handed an event to the kernel. Steps of 10 ms with 5 % of noise,
          batches of 8 at most, 12 requests at once, so that some queue.
lateness  Ours alone, Poisson arrivals against the null server: sent less due. Achieved is answers over the time from
          the first request that was due to the last answer, offered is requests over the time in which they were due.

PYTHON is an interpreter that has vLLM, the PROGRAMs are those tools' commands; each may be in an environment of its
own. The requests of all of them are streamed completions, by what each tool measures in its usual way. A tool that
isn't given, that fails or of whose requests any failed is told as not measured, with the reason. Ours is the openai
engine and what sends for it in a launch's process, then the way of its answers to the launch, and their statistics.
"""

import argparse
import json
import os
import random
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil
from tabulate import tabulate

from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.errors import SlmperfError
from pytest_slmperf.core.launch import Load
from pytest_slmperf.core.load.arrivals import schedule
from pytest_slmperf.core.load.latency import Answered, answered_of, latencies_of, percentile
from pytest_slmperf.core.load.latency import statistics as latency_statistics
from pytest_slmperf.core.load.prompts import Prompts
from pytest_slmperf.core.load.traffic import Arrivals, Traffic
from pytest_slmperf.core.metrics import LATENCIES, at_quantile
from pytest_slmperf.core.protocol import Play, Played, decode, encode
from pytest_slmperf.core.sweeps.workload import OpenLoop
from pytest_slmperf.report.foreign.reading import read
from pytest_slmperf.run.pinning import on_core
from pytest_slmperf.testing.server import Options, Received, Server, serving

MODEL, VOCABULARY = "tiny", 2_000
QUANTILES = (0.5, 0.9, 0.99)
MORE = 3
"""Times as many requests in the longer run of a pair."""
BUSY = 0.9
"""Share of a core from which on it is the limit."""
RUN_LIMIT_S = 600.0
REQUEST_LIMIT_S = 60.0
NS_PER_S, NS_PER_MS, NS_PER_US, US_PER_S = 1e9, 1e6, 1e3, 1e6
CACHED, REVISION = "slmperf/words", "0" * 40
"""What the tokenizer is called in a Hugging Face cache, which is where AIPerf looks."""
VLLM = (
    "import argparse; from vllm.benchmarks.serve import add_cli_args, main; "
    "parser = argparse.ArgumentParser(); add_cli_args(parser); main(parser.parse_args())"
)
"""What `vllm bench serve` runs; the command itself refuses a build of another package's name, as some for CPUs are."""


class NotMeasured(Exception):
    """Why a tool has no figure."""


@dataclass(frozen=True)
class Ask:
    """Requests that a client is to send: as many, so many at once; or when they are due, at a rate."""

    prompt_tokens: int
    output_tokens: int
    requests: int = 0
    concurrency: int | None = None
    rate: float | None = None
    seconds: float = 0.0

    def due_s(self) -> tuple[float, ...]:
        """All at once, or with Poisson's gaps."""
        if self.rate is None:
            return (0.0,) * self.requests
        return schedule(OpenLoop(self.prompt_tokens, self.output_tokens), self.rate, seconds=self.seconds, seed=1)


@dataclass(frozen=True)
class Tool:
    """A client, and how it is run."""

    name: str
    command: Callable[[Ask, str, Path], Sequence[str | Path]]
    """Of what is asked, the server's address, and the folder for its files."""
    written: str
    """Where in that folder its result is."""
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """One run of a tool, with its start and end."""

    requests: int
    wall_s: float
    client_s: float
    """Processor time of its processes; of those that it didn't wait for there is none."""
    server_s: float
    told: Mapping[str, float]
    """What it says that it measured, by our names."""


@dataclass(frozen=True)
class Pace:
    """What a pair of runs tells, their start and end taken out."""

    requests_per_s: float
    client_s: float
    """A request's processor time."""
    client_busy: float
    """Share of a core."""
    server_busy: float

    @property
    def limit(self) -> str:
        """Who couldn't do more."""
        busy = [name for name, share in (("client", self.client_busy), ("server", self.server_busy)) if share >= BUSY]
        return " and ".join(busy) or "neither"


def pace(shorter: Run, longer: Run) -> Pace:
    """What the requests took by which one run is longer than the other. Raises NotMeasured."""
    more, wall_s = longer.requests - shorter.requests, longer.wall_s - shorter.wall_s
    client_s, server_s = longer.client_s - shorter.client_s, longer.server_s - shorter.server_s
    if min(wall_s, client_s) <= 0:
        raise NotMeasured(f"{more} more requests took no more time than its start varies: ask for more")
    return Pace(more / wall_s, client_s / more, client_s / wall_s, server_s / wall_s)


# The tools


def ours() -> Tool:
    """This program, in a process of its own."""

    def command(ask: Ask, address: str, folder: Path) -> Sequence[str | Path]:
        return sys.executable, __file__, "ours", address, json.dumps(asdict(ask)), folder / "ours.json"

    return Tool("pytest-slmperf", command, "ours.json")


def vllm(python: str, tokenizer: Path) -> Tool:
    """`vllm bench serve`."""

    def command(ask: Ask, address: str, folder: Path) -> Sequence[str | Path]:
        return (
            *(python, "-c", VLLM, "--backend=openai", f"--base-url={address}", f"--model={MODEL}"),
            *(f"--tokenizer={tokenizer}", "--dataset-name=random", f"--random-input-len={ask.prompt_tokens}"),
            *(f"--random-output-len={ask.output_tokens}", f"--num-prompts={ask.requests}", "--ignore-eos"),
            *(f"--max-concurrency={ask.concurrency}", "--percentile-metrics=ttft,tpot,itl,e2el"),
            *("--metric-percentiles=90,99", "--disable-tqdm", "--save-result", f"--result-dir={folder}"),
            "--result-filename=vllm.json",
        )

    return Tool("vllm bench serve", command, "vllm.json")


def guidellm(program: str, tokenizer: Path) -> Tool:
    """`guidellm run`. Its own synthetic prompts are of English words, of which our tokenizer knows none."""

    def command(ask: Ask, address: str, folder: Path) -> Sequence[str | Path]:
        backend = f"kind=openai_http,target={address},model={MODEL},request_format=/v1/completions"
        write_prompts(folder / "prompts.jsonl", ask)
        return (
            *(program, "run", "--disable-console-interactive", f"--backend={backend}"),
            *(f"--profile=kind=concurrent,streams={ask.concurrency}", "--data=kind=json_file,path=prompts.jsonl"),
            f"--constraint=kind=max_requests,count={ask.requests}",
            *(f"--tokenizer=kind=huggingface_auto,model={tokenizer}", "--output=kind=json,path=benchmarks.json"),
        )

    return Tool("guidellm", command, "benchmarks.json", {"HF_HUB_OFFLINE": "1"})


def write_prompts(path: Path, ask: Ask) -> None:
    """A line for each request: as many words of the tokenizer as its prompt has tokens."""
    draw = random.Random(1)
    texts = (
        " ".join(f"w{draw.randrange(1, VOCABULARY)}" for _ in range(ask.prompt_tokens)) for _ in range(ask.requests)
    )
    lines = (json.dumps({"prompt": text, "output_tokens_count": ask.output_tokens}) for text in texts)
    path.write_text("\n".join(lines), encoding="utf-8")


def aiperf(program: str, cache: Path) -> Tool:
    """`aiperf profile`."""

    def command(ask: Ask, address: str, folder: Path) -> Sequence[str | Path]:
        return (
            *(program, "profile", f"--model={MODEL}", f"--url={address}", "--endpoint-type=completions"),
            *("--streaming", f"--tokenizer={CACHED}", f"--concurrency={ask.concurrency}", "--ui=none"),
            *(f"--request-count={ask.requests}", f"--synthetic-input-tokens-mean={ask.prompt_tokens}"),
            *(f"--output-tokens-mean={ask.output_tokens}", "--use-server-token-count"),
            *("--extra-inputs=ignore_eos:true", f"--artifact-dir={folder}"),
        )

    environment = {"HF_HOME": str(cache), "HF_HUB_OFFLINE": "1"}
    return Tool("aiperf", command, "profile_export_aiperf.json", environment)


def write_tokenizer(folder: Path) -> None:
    """One whose every word is a token, as the testing server counts them."""
    words = {f"w{number}": number for number in range(VOCABULARY)}
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [{"id": number, "content": word, **special} for word, number in (("w0", 0), ("?", VOCABULARY))],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": {**words, "?": VOCABULARY}, "unk_token": "?"},
    }
    names = {"unk_token": "?", "pad_token": "?", "eos_token": "w0"}
    folder.mkdir(parents=True)
    for name, content in (
        ("tokenizer.json", tokenizer),
        ("tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **names}),
        ("config.json", {"model_type": "gpt2"}),
    ):
        (folder / name).write_text(json.dumps(content), encoding="utf-8")


def tools_of(given: argparse.Namespace, folder: Path) -> dict[str, Tool | None]:
    """Ours, and those that are given; None for one that isn't."""
    repository = folder / "cache/hub/models--slmperf--words"
    tokenizer = repository / "snapshots" / REVISION
    write_tokenizer(tokenizer)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(REVISION, encoding="utf-8")
    return {
        "pytest-slmperf": ours(),
        "vllm bench serve": vllm(given.vllm, tokenizer) if given.vllm else None,
        "guidellm": guidellm(given.guidellm, tokenizer) if given.guidellm else None,
        "aiperf": aiperf(given.aiperf, folder / "cache") if given.aiperf else None,
    }


# Running them


def cores() -> tuple[int, int]:
    """The server's and the client's; the same where there is one."""
    able = sorted(os.sched_getaffinity(0))
    return able[0], able[-1]


@contextmanager
def served(options: Options) -> Iterator[Server]:
    """A server on its core."""
    with on_core(cores()[0]):
        running = serving(options)
        server = running.__enter__()
    try:
        yield server
    finally:
        running.__exit__(None, None, None)


def run(tool: Tool | None, ask: Ask, server: Server) -> Run:
    """Run it to its end. Raises NotMeasured."""
    if tool is None:
        raise NotMeasured("it isn't given")
    with tempfile.TemporaryDirectory(prefix="slmperf-client-") as name:
        folder = Path(name)
        serving_s, busy_s, began_s = _server_s(server), _children_s(), time.monotonic()
        _to_its_end(tool, list(map(str, tool.command(ask, server.address, folder))), folder)
        wall_s, client_s, server_s = time.monotonic() - began_s, _children_s() - busy_s, _server_s(server) - serving_s
        return Run(ask.requests, wall_s, client_s, server_s, _told(folder / tool.written, ask))


def _to_its_end(tool: Tool, command: list[str], folder: Path) -> None:
    # A proxy of the environment is for other machines.
    environment = {**os.environ, "NO_PROXY": "*", "no_proxy": "*", **tool.environment}
    log = folder / "log"
    with log.open("wb") as written, on_core(cores()[1]):
        try:
            process = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=written, stderr=written, start_new_session=True
            )
        except OSError as error:
            raise NotMeasured(f"{command[0]} can't be started: {error}") from error
    try:
        status = process.wait(RUN_LIMIT_S)
    except subprocess.TimeoutExpired:
        raise NotMeasured(f"it had not ended after {RUN_LIMIT_S:g} s") from None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what it left behind would take time from the next one
        process.wait()
    if status:
        said = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
        raise NotMeasured(f"it ended with exit code {status}: {said[-1] if said else 'it said nothing'}")


def _told(path: Path, ask: Ask) -> dict[str, float]:
    """What it measured. Raises NotMeasured where that is not of all the requests."""
    if path.name == ours().written:
        told: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
        return told
    try:
        (result,) = read(path)
    except (SlmperfError, ValueError) as error:
        raise NotMeasured(f"its result can't be read: {error}") from error
    asked, given = ask.output_tokens, result.load.output_tokens
    if result.failure or (given is not None and given != asked):
        raise NotMeasured(
            result.failure or f"answers of {asked} tokens were asked for, and it has {given:g} in the mean"
        )
    return {name: rounds[0] for name, rounds in result.values.items()}


def _server_s(server: Server) -> float:
    times = psutil.Process(server.process.pid).cpu_times()
    return times.user + times.system


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


# What is run of ours


def send(address: str, ask: Ask) -> Traffic:
    """Send the requests as a launch's process does, and hand over what came of them."""
    from pytest_slmperf.engines import openai  # noqa: PLC0415 - whoever runs the tools needs no client
    from pytest_slmperf.worker.sending import play  # noqa: PLC0415 - as above

    engine = openai.create(EngineSpec("openai", MODEL, options={"url": f"{address}/v1"}))
    arrivals = Arrivals(ask.due_s(), ask.concurrency)
    load = Load("client", ((ask.prompt_tokens, ask.output_tokens),), 1, arrivals)
    try:
        prompts = Prompts(vocabulary=engine.start().vocabulary, seed=load.seed)
        traffic = play(engine, Play(load, 0.0, 0, REQUEST_LIMIT_S), prompts)
    finally:
        engine.stop()
    played = decode(encode(Played(traffic)))
    assert isinstance(played, Played)
    return played.traffic


def summary(traffic: Traffic, ask: Ask) -> dict[str, float]:
    """What is told of it. Raises SystemExit where a request failed."""
    sent = traffic.exchanges
    if errors := [one.error for one in sent if one.error]:
        raise SystemExit(f"{len(errors)} of {len(sent)} requests failed: {errors[0]}")
    told, _ = latency_statistics(latencies_of(answered_of(sent)), QUANTILES)
    late_us = [(one.sent_ns - one.due_ns) / NS_PER_US for one in sent]
    offered = len(sent) / ask.seconds if ask.rate else 0.0
    achieved = len(sent) / (max(one.ended_ns for one in sent) - traffic.began_ns) * NS_PER_S
    return {
        **told,
        "requests": len(sent),
        "median_late_us": percentile(late_us, 0.5),
        "p99_late_us": percentile(late_us, 0.99),
        "max_late_us": max(late_us),
        "offered": offered,
        "achieved": achieved,
        "sender_us": traffic.sender.cpu_s / len(sent) * US_PER_S,
    }


# The three parts


def speed(given: argparse.Namespace, tools: Mapping[str, Tool | None]) -> None:
    """A table for each load."""
    whole, streamed = Ask(16, 1, given.requests, 32), Ask(16, 512, given.answers, 16)
    for name, ask, options in (
        ("requests of one token", whole, Options(null=True, model=MODEL)),
        ("tokens, each event written by itself", streamed, Options(null=True, model=MODEL, events_per_write=1)),
        ("tokens, all events of an answer at once", streamed, Options(null=True, model=MODEL)),
    ):
        with served(options) as server:
            found = in_turn(tools, ask, server, given.pairs)
        unit = "requests" if ask.output_tokens == 1 else "tokens"
        heads = ["client", "pairs", f"{unit}/s", f"CPU µs a {unit[:-1]}", f"{unit}/s a client core"]
        rows = [row(tool, found[tool], ask.output_tokens) for tool in tools]
        shown(
            f"speed: {name}, {ask.requests} and {MORE * ask.requests} requests",
            [*heads, "client", "server", "limit"],
            rows,
        )


def in_turn(
    tools: Mapping[str, Tool | None], ask: Ask, server: Server, pairs: int
) -> dict[str, list[Pace] | NotMeasured]:
    """The pairs of each tool; one that fails is left alone from then on."""
    found: dict[str, list[Pace] | NotMeasured] = {name: [] for name in tools}
    more = Ask(ask.prompt_tokens, ask.output_tokens, MORE * ask.requests, ask.concurrency)
    for _ in range(pairs):
        for name, tool in tools.items():
            paces = found[name]
            if isinstance(paces, NotMeasured):
                continue
            try:
                paces.append(pace(run(tool, ask, server), run(tool, more, server)))
            except NotMeasured as error:
                found[name] = error
    return found


def row(name: str, paces: list[Pace] | NotMeasured, tokens: int) -> list[str]:
    """A tool's line of a table, by requests or by their tokens."""
    if isinstance(paces, NotMeasured):
        return [name, "not measured", str(paces)]
    reached = [one.requests_per_s * tokens for one in paces]
    cpu_us = [one.client_s / tokens * US_PER_S for one in paces]
    client, server = (statistics.median(getattr(one, busy) for one in paces) for busy in ("client_busy", "server_busy"))
    typical = Pace(0.0, 0.0, client, server)
    per_core = US_PER_S / statistics.median(cpu_us)
    return [
        *(name, str(len(paces)), ranged(reached, ",.0f"), ranged(cpu_us, ",.2f"), f"{per_core:,.0f}"),
        *(f"{client:.0%}", f"{server:.0%}", typical.limit),
    ]


def ranged(values: Sequence[float], form: str) -> str:
    """Median and range."""
    return f"{statistics.median(values):{form}} ({min(values):{form}}–{max(values):{form}})"


def accuracy(given: argparse.Namespace, tools: Mapping[str, Tool | None]) -> None:
    """A table of all tools."""
    ask = Ask(64, 32, given.requests, 12)
    options = Options(model=MODEL, step_s=0.01, max_batch=8, noise=0.05)
    rows = []
    for name, tool in tools.items():
        with served(options) as server:  # each has the same noise from the start
            try:
                told = run(tool, ask, server).told
                rows += errors(name, told, truth(server.received(ask.requests), ask))
            except (NotMeasured, TimeoutError) as error:
                rows.append([name, "not measured", str(error)])
    heads = ["client", "metric", *("median" if at == 0.5 else f"p{at * 100:g}" for at in QUANTILES)]
    shown(f"accuracy: {ask.requests} requests, ms, and in brackets less the server's own", heads, rows)


def truth(received: Sequence[Received], ask: Ask) -> dict[str, float]:
    """The server's own statistics of the requests, without those by which a tool tries whether it is there."""
    asked = [one for one in received if one.output_tokens == ask.output_tokens and one.ended_ns][-ask.requests :]
    if len(asked) < ask.requests:
        raise NotMeasured(f"the server answered {len(asked)} of {ask.requests} requests")
    seen = [Answered(one.received_ns, one.chunk_ns, one.output_tokens) for one in asked]
    return latency_statistics(latencies_of(seen), QUANTILES)[0]


def errors(name: str, told: Mapping[str, float], true: Mapping[str, float]) -> list[list[str]]:
    """A tool's lines, one for each metric; a dash where the tool doesn't tell it by our definition."""
    rows = []
    for latency in LATENCIES:
        cells = []
        for at in QUANTILES:
            metric = at_quantile(LATENCIES[latency], at).name
            if metric not in told or metric not in true:
                cells.append("–")
                continue
            by = told[metric] - true[metric]
            cells.append(f"{told[metric]:.2f} ({by:+.2f}, {by / true[metric]:+.1%})")
        rows.append([name, latency, *cells])
    return rows


def lateness(given: argparse.Namespace, _tools: Mapping[str, Tool | None]) -> None:
    """A table of the rates."""
    rows = []
    with served(Options(null=True, model=MODEL)) as server:
        for rate in given.rates:
            try:
                told = run(ours(), Ask(16, 1, rate=rate, seconds=given.seconds), server).told
            except NotMeasured as error:
                rows.append([f"{rate:g}", "not measured", str(error)])
                continue
            late = [f"{told[name]:,.0f}" for name in ("median_late_us", "p99_late_us", "max_late_us")]
            share = f"{told['achieved'] / told['offered']:.1%}"
            rows.append([f"{rate:g}", f"{told['requests']:,}", *late, share, f"{told['sender_us']:,.0f}"])
    heads = ["requests/s", "requests", "late, median µs", "p99", "largest", "achieved/offered", "CPU µs a request"]
    shown("lateness", heads, rows)


def shown(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """As Markdown has a table."""
    print(f"{title}\n\n{tabulate(rows, heads, tablefmt='pipe', disable_numparse=True)}\n", flush=True)


PARTS: Mapping[str, Callable[[argparse.Namespace, Mapping[str, Tool | None]], None]] = {
    "speed": speed,
    "accuracy": accuracy,
    "lateness": lateness,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a part, or what is measured of ours."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    for name, requests in (("speed", 3000), ("accuracy", 400)):
        part = parts.add_parser(name)
        for tool, what in (("--vllm", "PYTHON"), ("--guidellm", "PROGRAM"), ("--aiperf", "PROGRAM")):
            part.add_argument(tool, metavar=what)
        part.add_argument("--requests", type=int, default=requests)
        if name == "speed":
            part.add_argument("--answers", type=int, default=256, help="requests of 512 tokens")
            part.add_argument("--pairs", type=int, default=5)
    part = parts.add_parser("lateness")
    part.add_argument("--rates", type=float, nargs="+", default=[50.0, 500.0, 2000.0])
    part.add_argument("--seconds", type=float, default=20.0)
    part = parts.add_parser("ours", help="what is measured of ours")
    part.add_argument("address")
    part.add_argument("ask", type=lambda said: Ask(**json.loads(said)))
    part.add_argument("out", type=Path)
    given = parser.parse_args(arguments)
    if given.part == "ours":
        given.out.write_text(json.dumps(summary(send(given.address, given.ask), given.ask)), encoding="utf-8")
        return
    if len(set(cores())) == 1:
        print("there is one core: the client has what the server leaves\n")
    with tempfile.TemporaryDirectory(prefix="slmperf-tokenizer-") as name:
        tools = tools_of(given, Path(name)) if given.part != "lateness" else {}
        PARTS[given.part](given, tools)


if __name__ == "__main__":
    main()
