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
    with serving(step_s=0.02) as running:
        yield running


def serving(**options):
    pytest.importorskip("uvloop")
    module = importlib.import_module("pytest_slmperf.testing.server")
    return module.serving(module.Options(model="tiny", **options))


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


def imports(path, folder, *words):
    """Whether the whole command takes the file, and compares it with itself."""
    report = folder / "report.json"
    assert main(["import", str(path), f"--out={report}", "--gate=output_throughput", *words]) == 0
    return main(["compare", str(report), str(report)]) == 0


def by_guidellm(server, folder, tokenizer):  # noqa: ARG001 - it needs none of a server that counts
    data = prompts(folder / "data.jsonl", output_tokens_count=ANSWER)
    run(
        HERE / "guidellm",
        *("run", "--disable-console"),
        f"--backend=kind=openai_http,target={server.address},model=tiny,validate_backend=false",
        f"--profile=kind=concurrent,streams={CONCURRENCY}",
        f"--constraint=kind=max_requests,count={REQUESTS}",
        f"--data=kind=json_file,path={data}",
        "--output=kind=json,path=benchmarks.json",
        folder=folder,
    )
    return folder / "benchmarks.json"


def by_aiperf(server, folder, tokenizer):
    data = prompts(folder / "data.jsonl")
    run(
        HERE / "aiperf",
        *("profile", "--model=tiny", f"--url={server.address}", "--endpoint-type=chat", "--streaming", "--ui=none"),
        *(f"--concurrency={CONCURRENCY}", f"--request-count={REQUESTS}", f"--tokenizer={tokenizer}"),
        *(f"--input-file={data}", "--custom-dataset-type=single_turn", "--use-server-token-count"),
        f"--extra-inputs=max_tokens:{ANSWER}",
        "--artifact-dir=aiperf",
        folder=folder,
        offline=False,  # or else it takes a folder for the name of a repository
    )
    return folder / "aiperf" / "profile_export_aiperf.json"


def by_vllm(server, folder, tokenizer):
    run(
        *(sys.executable, "-c", VLLM, "--backend=openai", f"--base-url={server.address}", "--model=tiny"),
        *(f"--tokenizer={tokenizer}", "--dataset-name=random", f"--random-input-len={PROMPT}"),
        *(f"--random-output-len={ANSWER}", f"--num-prompts={REQUESTS}", f"--max-concurrency={CONCURRENCY}"),
        *("--save-result", "--result-filename=vllm.json", "--percentile-metrics=ttft,tpot,itl,e2el"),
        *("--metadata", "driver=580.65"),
        folder=folder,
    )
    return folder / "vllm.json"


TOOLS = [
    pytest.param(by, id=name, marks=needs(name))
    for name, by in {"guidellm": by_guidellm, "aiperf": by_aiperf, "vllm": by_vllm}.items()
]


@pytest.mark.parametrize("tool", TOOLS)
def test_a_tool_writes_what_is_read(tmp_path, server, tokenizer, tool):
    """Its figures, by our names and in our units, are those that the server knows; and the command takes its file."""
    since = len(server.received())
    path = tool(server, tmp_path, tokenizer)
    (result,) = read(path)
    seen = [one for one in server.received()[since:] if one.output_tokens == ANSWER]
    assert len(seen) >= REQUESTS
    gaps = [after - before for one in seen for before, after in zip(one.chunk_ns, one.chunk_ns[1:], strict=False)]
    truth = {
        "median_ttft_ms": [one.ttft_ns for one in seen],
        "median_e2el_ms": [one.chunk_ns[-1] - one.received_ns for one in seen],
        "median_tpot_ms": [(one.chunk_ns[-1] - one.chunk_ns[0]) / (ANSWER - 1) for one in seen],
        "median_itl_ms": gaps,
    }
    for name, values in truth.items():
        # Within what a client adds on a busy machine; that seconds aren't ms, nor TPOT ITL, shows all the same.
        if name != "median_itl_ms" or tool is not by_guidellm:
            slack_ms = 10 if name in ("median_ttft_ms", "median_e2el_ms") else 2
            assert result.values[name][0] == pytest.approx(median(values) / NS_PER_MS, rel=0.15, abs=slack_ms), name
    rate = result.values["request_throughput"][0]
    assert result.values["output_throughput"][0] == pytest.approx(rate * ANSWER, rel=0.15)  # a window has edges
    assert (result.load.label, result.failure) == (f"concurrency={CONCURRENCY}", "")
    assert (result.load.prompt_tokens >= PROMPT, result.load.output_tokens) == (True, ANSWER)
    assert (result.model, result.facts) == ("tiny", {"driver": "580.65"} if tool is by_vllm else {})
    assert imports(path, tmp_path)


@pytest.mark.parametrize("tool", TOOLS)
def test_a_tool_says_which_requests_failed(tmp_path, tokenizer, tool):
    """A server that refuses some of them voids the file, with as many as it refused."""
    with serving(step_s=0.002, server_error=0.2) as server:
        path = tool(server, tmp_path, tokenizer)
        refused = sum(one.status >= 500 for one in server.received())
    (result,) = read(path)
    failed = int(result.failure.partition(" of ")[0])
    assert 0 < failed <= refused, "a tool may have asked before it measured"
    assert main(["import", str(path), f"--out={tmp_path / 'report.json'}"]) == 1


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
