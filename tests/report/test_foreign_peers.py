"""Files that the tools write themselves, of a server that knows the truth, and our files in the tools' own models.

Each test needs its tool beside this package: `tox run -e peers`, and for vLLM's `tox run -e vllm -- tests/report`.
"""

import importlib
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from types import ModuleType

import pytest
import yaml

from pytest_slmperf.cli import main
from pytest_slmperf.report.foreign.reading import read

HERE = Path(sys.executable).parent
REQUESTS, CONCURRENCY, PROMPT, ANSWER = 40, 4, 20, 32
NS_PER_MS = 1e6
VLLM = "import argparse; from vllm.benchmarks import serve; p = argparse.ArgumentParser(); serve.add_cli_args(p); serve.main(p.parse_args())"  # noqa: E501
"""What its command runs; that knows no vLLM which is installed under another name, as the CPU's is."""


def needs(module):
    return pytest.mark.skipif(find_spec(module) is None, reason=f"{module} is not installed")


@pytest.fixture(scope="module")
def server():
    """An engine with 20 ms a step."""
    pytest.importorskip("uvloop")
    serving = importlib.import_module("pytest_slmperf.testing.server")
    with serving.serving(serving.Options(model="tiny", step_s=0.02)) as running:
        yield running


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """One whose every word is a token, as the server counts them, so that nothing is fetched."""
    tokenizers, transformers = pytest.importorskip("tokenizers"), pytest.importorskip("transformers")
    words, unknown = {f"w{number}": number for number in range(2000)}, "<unk>"
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({**words, unknown: 2000}, unk_token=unknown))
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    folder = tmp_path_factory.mktemp("tokenizer")
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=made, unk_token=unknown, pad_token=unknown)
    fast.save_pretrained(folder)
    return folder


def prompts(path, **more):
    """A file of prompts of 20 words."""
    texts = (" ".join(f"w{(number * 7 + word) % 2000}" for word in range(PROMPT)) for number in range(REQUESTS))
    key = "text" if not more else "prompt"
    path.write_text("".join(json.dumps({key: text, **more}) + "\n" for text in texts))
    return path


def run(*words, folder, offline=True):
    """Run a tool to its end."""
    environment = {**os.environ, "NO_PROXY": "*", **({"HF_HUB_OFFLINE": "1"} if offline else {})}
    done = subprocess.run(
        [str(word) for word in words],
        cwd=folder,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def truth(server, since):
    """What the server knows of the requests from there on: medians in ms."""
    seen = [one for one in server.received()[since:] if one.output_tokens == ANSWER]
    assert len(seen) >= REQUESTS
    first, last = [one.ttft_ns for one in seen], [one.chunk_ns[-1] - one.received_ns for one in seen]
    decode = [(one.chunk_ns[-1] - one.chunk_ns[0]) / (ANSWER - 1) for one in seen]
    return {"ttft_ms": first, "e2el_ms": last, "tpot_ms": decode}, seen


def check(result, server, since):
    """Whether a file's figures are the server's, but for what a client adds on a busy machine."""
    times, _ = truth(server, since)
    for name, values in times.items():
        theirs = median(values) / NS_PER_MS
        assert result.values[f"median_{name}"][0] == pytest.approx(theirs, rel=0.15, abs=10), name
    rate = result.values["request_throughput"][0]
    assert result.values["output_throughput"][0] == pytest.approx(rate * ANSWER, rel=0.15)  # a window has edges
    assert result.load.output_tokens == ANSWER
    assert (result.load.label, result.failure) == (f"concurrency={CONCURRENCY}", "")


def imports(path, folder, *words):
    """Whether the whole command takes the file, and compares it with itself."""
    report = folder / "report.json"
    assert main(["import", str(path), f"--out={report}", "--gate=output_throughput", *words]) == 0
    return main(["compare", str(report), str(report)]) == 0


@needs("guidellm")
def test_guidellm_writes_what_is_read(tmp_path, server):
    """Its rates are means over its measurement, its latencies of requests are seconds, and its ITL is our TPOT."""
    since, data = len(server.received()), prompts(tmp_path / "data.jsonl", output_tokens_count=ANSWER)
    run(
        HERE / "guidellm",
        *("run", "--disable-console"),
        f"--backend=kind=openai_http,target={server.address},model=tiny",
        f"--profile=kind=concurrent,streams={CONCURRENCY}",
        f"--constraint=kind=max_requests,count={REQUESTS}",
        f"--data=kind=json_file,path={data}",
        "--output=kind=json,path=benchmarks.json",
        folder=tmp_path,
    )
    (result,) = read(tmp_path / "benchmarks.json")
    check(result, server, since)
    assert result.model == "tiny"
    assert imports(tmp_path / "benchmarks.json", tmp_path)


@needs("aiperf")
def test_aiperf_writes_what_is_read(tmp_path, server, tokenizer):
    """Its ITL is our TPOT, and what it calls chunks are our gaps."""
    since, data = len(server.received()), prompts(tmp_path / "data.jsonl")
    run(
        HERE / "aiperf",
        *("profile", "--model=tiny", f"--url={server.address}", "--endpoint-type=chat", "--streaming", "--ui=none"),
        *(f"--concurrency={CONCURRENCY}", f"--request-count={REQUESTS}", f"--tokenizer={tokenizer}"),
        *(f"--input-file={data}", "--custom-dataset-type=single_turn", "--use-server-token-count"),
        f"--extra-inputs=max_tokens:{ANSWER}",
        "--artifact-dir=aiperf",
        folder=tmp_path,
        offline=False,  # or else it takes a folder for the name of a repository
    )
    path = tmp_path / "aiperf" / "profile_export_aiperf.json"
    (result,) = read(path)
    check(result, server, since)
    _, seen = truth(server, since)
    gaps = [after - before for one in seen for before, after in zip(one.chunk_ns, one.chunk_ns[1:], strict=False)]
    assert result.values["median_itl_ms"][0] == pytest.approx(median(gaps) / NS_PER_MS, rel=0.15, abs=2)
    assert imports(path, tmp_path)


@needs("vllm")
def test_vllm_bench_writes_what_is_read(tmp_path, server, tokenizer):
    """Its definitions are ours, and its metadata says what the file has no field for."""
    since = len(server.received())
    run(
        *(sys.executable, "-c", VLLM, "--backend=openai", f"--base-url={server.address}", "--model=tiny"),
        *(f"--tokenizer={tokenizer}", "--dataset-name=random", f"--random-input-len={PROMPT}"),
        *(f"--random-output-len={ANSWER}", f"--num-prompts={REQUESTS}", f"--max-concurrency={CONCURRENCY}"),
        *("--save-result", "--result-filename=vllm.json", "--percentile-metrics=ttft,tpot,itl,e2el"),
        *("--metadata", "driver=580.65"),
        folder=tmp_path,
    )
    (result,) = read(tmp_path / "vllm.json")
    check(result, server, since)
    assert result.facts == {"driver": "580.65"}
    assert imports(tmp_path / "vllm.json", tmp_path)


@pytest.fixture
def llmd_models(monkeypatch):
    """The models of llm-d's report as inference-perf has them, without the rest of that package."""
    if (found := find_spec("inference_perf")) is None or not found.submodule_search_locations:
        pytest.skip("inference_perf is not installed")
    folder = Path(found.submodule_search_locations[0]) / "reportgen" / "br" / "v0_2"
    package = ModuleType("llmd_report")
    package.__path__ = [str(folder)]
    monkeypatch.setitem(sys.modules, "llmd_report", package)
    return importlib.import_module("llmd_report.schema_v0_2")


def test_llmd_takes_what_is_written(tmp_path, llmd_models):
    """The report of a real run of ours is one of llm-d's, and its models write what is read here."""
    words = ("--engine=fake", "--batch-size=4", f"--report={tmp_path / 'ours.json'}")
    assert main(["ab", "same", "same", *words]) == 0
    assert main(["report", str(tmp_path / "ours.json"), "--as=llm-d", f"--out={tmp_path / 'llmd.yaml'}"]) == 0
    written = llmd_models.BenchmarkReportV02(**yaml.safe_load((tmp_path / "llmd.yaml").read_text()))
    ttft = written.results.request_performance.aggregate.latency.time_to_first_token
    assert ttft.p50 > 0
    written.results.request_performance.aggregate.requests = llmd_models.AggregateRequests(total=100, failures=0)
    dumped = written.model_dump(mode="json", exclude_none=True)
    (tmp_path / "theirs.yaml").write_text(yaml.safe_dump(dumped))
    (result,) = read(tmp_path / "theirs.yaml")
    assert result.values["median_ttft_ms"][0] == pytest.approx(ttft.p50)
    assert imports(tmp_path / "theirs.yaml", tmp_path)
