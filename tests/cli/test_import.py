"""`slmperf import` and `slmperf report`, from the command line: other tools' files are gated, and written."""

import json
import os
import shutil
from pathlib import Path

import foreign_files
import pytest

from pytest_slmperf.cli import main
from pytest_slmperf.run import schema

LAUNCHES = 20
FACTS = (
    *("--engine=vllm", "--engine-version=0.33.0", "--dtype=bfloat16", "--device=NVIDIA H100", "--driver=580.65"),
    "--runs-on=cuda",
)
GATE = ("--gate=output_throughput=0.03", "--gate=ttft_ms=0.03")
EVERY = pytest.mark.parametrize("tool", foreign_files.TOOLS)


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys):
    """Runs the program in an empty project."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        try:
            code = main([str(word) for word in words])
        except SystemExit as ended:
            code = ended.code
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return run


@pytest.fixture
def imported(cli):
    """Imports so many files of a tool into NAME.json; the code and what was said."""

    def run(name, tool="vllm", *words, launches=LAUNCHES, facts=FACTS, **made):
        paths = foreign_files.write(Path(name), tool, launches=launches, **made)
        return cli("import", *paths, f"--out={name}.json", *foreign_files.NEEDED[tool], *facts, *GATE, *words)

    return run


@EVERY
def test_the_same_engine_again_passes(cli, imported, tool):
    """Twenty launches before and after an update that changed nothing."""
    assert imported("before", tool, seed=1)[0] == 0
    assert imported("after", tool, seed=2)[0] == 0
    code, said = cli("compare", "before.json", "after.json")
    assert (code, said.splitlines()[-1]) == (0, "2 unchanged"), said


@EVERY
def test_a_slower_engine_is_red(cli, imported, tool):
    """A loss of a tenth of throughput and latency."""
    imported("before", tool, seed=1)
    imported("after", tool, seed=2, pace=0.9)
    code, said = cli("compare", "before.json", "after.json")
    assert (code, said.splitlines()[-1]) == (1, "2 regressed"), said


@EVERY
def test_an_import_says_what_it_took(imported, tool):
    """Each case with its medians, and what was not taken with the reason."""
    code, said = imported("before", tool)
    assert code == 0
    assert "from 20 files of " in said
    assert "imported/Qwen3-0.6B/concurrency=8:\n" in said
    assert "  output_throughput 1" in said
    assert "(20×1 launches×rounds)" in said
    assert ("not imported: p0.1_ttft_ms, p99.9_ttft_ms" in said) is (tool == "guidellm")
    assert said.splitlines()[-1] == "report: before.json"
    assert schema.violation("report", json.loads(Path("before.json").read_text())) is None


def test_one_file_is_too_few(cli, imported):
    """One launch bounds nothing, and that does not pass."""
    imported("before", launches=1, seed=1)
    imported("after", launches=1, seed=2)
    code, said = cli("compare", "before.json", "after.json")
    assert (code, said.splitlines()[-1]) == (1, "2 inconclusive")
    assert "1×1 vs 1×1" in said


def test_what_nobody_says_is_named(cli, imported):
    """The import names the option, and every comparison that a difference is not seen."""
    _, said = imported("before", facts=("--engine=vllm", "--dtype=bfloat16"), seed=1)
    assert "nobody says these: --runs-on, --engine-version, --device, --driver" in said
    imported("after", seed=2)
    code, said = cli("compare", "before.json", "after.json")
    assert "before.json: imported, and nobody said its engine_version, device, driver" in said
    assert "after.json: imported" not in said
    assert "driver: not said → 580.65" in said
    assert code == 0


def test_another_driver_is_said(cli, imported):
    """What the option says is what is compared."""
    imported("before", seed=1)
    imported("after", "vllm", "--driver=590.10", seed=2)
    assert "differs, what is compared: driver: 580.65 → 590.10" in cli("compare", "before.json", "after.json")[1]


def test_an_option_wins_over_a_file_and_says_so(imported):
    """A server's image is named otherwise than its engine."""
    _, said = imported("before", "llmd", launches=2)
    assert "before/00.json says NVIDIA-H100-80GB-HBM3 for the device, and NVIDIA H100 was said and is taken" in said
    assert "for the engine" not in said


def test_launches_are_in_the_order_of_their_time(cli):
    """Whatever their files are called, and wherever the clock stood."""
    for name, date, pace in (("a", "2026-01-31T18:30:00+01:00", 1.2), ("b", "2026-01-31T17:00:00Z", 1.0)):
        content = foreign_files.llmd(pace)
        content["run"]["time"] = {"start": date}
        Path(f"{name}.json").write_text(json.dumps(content))
    assert cli("import", "a.json", "b.json", "--out=r.json")[0] == 0
    report = json.loads(Path("r.json").read_text())
    assert report["started_at"] == "2026-01-31T17:00:00+00:00"
    launches = report["sweeps"][0]["cases"][0]["samples"]["output_throughput"]["launches"]
    assert launches == [[pytest.approx(1500.0)], [pytest.approx(1800.0)]]


def test_a_file_without_a_date_has_its_own_time(cli):
    """And the import says so."""
    Path("a.jsonl").write_text(json.dumps(foreign_files.sglang()))
    os.utime("a.jsonl", (1769880600, 1769880600))
    _, said = cli("import", "a.jsonl", "--out=r.json", *foreign_files.NEEDED["sglang"])
    assert "the time of the oldest file stands for it" in said
    assert json.loads(Path("r.json").read_text())["started_at"] == "2026-01-31T17:30:00+00:00"


def test_two_tools_are_not_compared(cli, imported):
    """They measure in other ways, and so does another load generator below llm-d's report."""
    imported("before", "vllm")
    imported("after", "aiperf")
    code, said = cli("compare", "before.json", "after.json")
    assert (code, said.splitlines()[-1]) == (1, "2 incomparable")
    assert "method: vllm bench serve → aiperf" in said


def test_another_workload_is_not_compared(cli, imported):
    """Prompts of another length are other work, whatever the tool calls it."""
    imported("before")
    imported("after", total_input_tokens=25600)
    code, said = cli("compare", "before.json", "after.json")
    assert (code, "prompt_tokens: 128 → 256" in said) == (1, True)


def test_failed_requests_are_not_gated(cli, imported):
    """The import says which file has them and ends with 1; a comparison is void."""
    imported("before")
    paths = foreign_files.write(Path("after"), "vllm", launches=LAUNCHES, seed=2)
    paths[7].write_text(json.dumps(foreign_files.vllm(failed=2, completed=98)))
    code, said = cli("import", *paths, "--out=after.json", *FACTS, *GATE)
    assert code == 1
    assert "void: after/07.json: 2 of 100 requests failed" in said
    code, said = cli("compare", "before.json", "after.json")
    assert (code, said.splitlines()[-1]) == (1, "2 void")


def test_a_baseline_is_made_of_an_import(cli, imported):
    """It is stored and compared with like any other."""
    imported("before", seed=1)
    code, said = cli("baselines", "accept", "before.json", "--tolerance=supported")
    assert code == 0, said
    imported("after", seed=2)
    stored = "baselines/nvidia-h100/580.65"
    assert cli("compare", stored, "after.json")[0] == 0
    imported("slow", seed=3, pace=0.9)
    assert cli("compare", stored, "slow.json")[0] == 1


@pytest.mark.parametrize("missing", ["engine-version", "dtype", "device", "driver", "runs-on"])
def test_a_baseline_needs_every_fact(cli, imported, missing):
    """What nobody said can't be looked up later."""
    imported("before", facts=[fact for fact in FACTS if not fact.startswith(f"--{missing}=")])
    code, said = cli("baselines", "accept", "before.json", "--tolerance=supported")
    assert (code, f"--{missing}" in said) == (1, True), said
    assert not Path("baselines").exists()


def test_a_baseline_needs_twenty_launches(cli, imported):
    """As any other."""
    imported("before", launches=5)
    code, said = cli("baselines", "accept", "before.json")
    assert (code, "5 launches; a baseline needs at least 20" in said) == (1, True), said


def test_lines_of_a_file_are_rounds_of_its_launch(cli):
    """A server that isn't started anew is one launch, however often it is measured."""
    for launch in range(3):
        lines = (json.dumps(foreign_files.sglang(1 + launch / 100 + line / 1000)) for line in range(4))
        Path(f"{launch}.jsonl").write_text("\n".join(lines))
    code, said = cli("import", "0.jsonl", "1.jsonl", "2.jsonl", "--out=r.json", *foreign_files.NEEDED["sglang"])
    assert (code, "output_throughput 1517 tok/s (3×4 launches×rounds)" in said) == (0, True), said


def test_a_sweep_is_several_cases(cli):
    """Loads of one file are cases, and each file is a launch of all of them."""
    paths = []
    for launch in range(2):
        content = foreign_files.guidellm(1 + launch / 100)
        other = foreign_files.guidellm(2 + launch / 100)["benchmarks"][0]
        other["config"]["strategy"]["streams"] = 16
        content["benchmarks"].append(other)
        path = Path(f"{launch}.json")
        path.write_text(json.dumps(content))
        paths.append(path)
    code, said = cli("import", *paths, "--out=r.json", "--suite=peak")
    assert code == 0
    assert "peak/Qwen3-0.6B/concurrency=8:" in said
    assert "peak/Qwen3-0.6B/concurrency=16:" in said
    code, said = cli("import", *paths, "--out=r.json", "--case=peak")
    assert (code, "--case names one case, and these files hold 2" in said) == (4, True)


def test_a_case_may_have_another_name(imported):
    """Where the load alone does not tell two suites' cases apart."""
    _, said = imported("before", "vllm", "--case=chat/qwen/rate=4")
    assert "chat/qwen/rate=4:" in said
    assert json.loads(Path("before.json").read_text())["sweeps"][0]["cases"][0]["case"] == "chat/qwen/rate=4"


def test_offline_runs_are_imported(cli):
    """What `vllm bench throughput` and `latency` don't write is asked for."""
    found = {"elapsed_time": 10.0, "num_requests": 100, "total_num_tokens": 25600, "requests_per_second": 10.0}
    Path("t.json").write_text(json.dumps({**found, "tokens_per_second": 2560.0}))
    code, said = cli("import", "t.json", "--out=r.json")
    assert (code, "vllm bench throughput doesn't write the model: say it with --model" in said) == (4, True)
    assert "imported/opt-125m/requests=100:" in cli("import", "t.json", "--out=r.json", "--model=opt-125m")[1]
    Path("l.json").write_text(json.dumps({"avg_latency": 1.0, "latencies": [1.0, 1.1], "percentiles": {}}))
    code, said = cli("import", "l.json", "--out=r.json", "--model=opt-125m")
    assert (code, "--batch-size, --prompt-tokens and --output-tokens" in said) == (4, True)
    lengths = ("--batch-size=8", "--prompt-tokens=32", "--output-tokens=128")
    code, said = cli("import", "l.json", "--out=r.json", "--model=opt-125m", *lengths)
    assert (code, "median_e2el_ms 1050 ms (1×2 launches×rounds)" in said) == (0, True)


def a_file(name="a.json", tool="vllm", **changes):
    Path(name).write_text(json.dumps(foreign_files.TOOLS[tool](**changes)))
    return name


MISTAKES = {
    "the same file twice": (lambda: [a_file(), "./a.json"], "a.json is named twice"),
    "a copy": (lambda: [a_file(), shutil.copy("a.json", "b.json")], "a.json and b.json hold the same result"),
    "two tools": (lambda: [a_file(), a_file("b.json", "aiperf")], "the tool: a.json has vllm bench serve, and b.json"),
    "two models": (
        lambda: [a_file(), a_file("b.json", pace=1.1, model_id="opt-125m")],
        "the model: a.json has Qwen/Qwen3-0.6B, and b.json has opt-125m",
    ),
    "two workloads": (
        lambda: [a_file(), a_file("b.json", pace=1.1, num_prompts=200)],
        "requests at concurrency=8: a.json has 100, and b.json has 200",
    ),
    "two lengths": (
        lambda: [a_file(), a_file("b.json", pace=1.1, total_output_tokens=25600)],
        "import unlike workloads into two reports",
    ),
    "two drivers": (
        lambda: [a_file(driver="1"), a_file("b.json", pace=1.1, driver="2")],
        "driver: a.json has 1, and b.json has 2",
    ),
    "two settings": (
        lambda: [a_file(tp="1"), a_file("b.json", pace=1.1, tp="2")],
        "tp at concurrency=8: a.json has 1, and b.json has 2",
    ),
    "another length than is said": (
        lambda: [a_file(), "--output-tokens=64"],
        "its requests have 128 output_tokens in the mean, and --output-tokens is 64",
    ),
    "no number of requests": (
        lambda: [a_file(tool="sglang"), "--model=m"],
        "nobody sees which failed: say it with --requests",
    ),
    "fewer requests than answers": (
        lambda: [a_file(tool="sglang"), "--model=m", "--requests=99"],
        "a.json: 100 requests were answered, and --requests says 99",
    ),
    "a driver in one of two": (
        lambda: [a_file(driver="1"), a_file("b.json", pace=1.1)],
        "driver: a.json has 1, and b.json has not said",
    ),
    "no such file": (lambda: ["gone.json"], "gone.json: No such file or directory"),
    "a folder": (lambda: ["."], ".: it is no file"),
    "no JSON for a name": (lambda: [a_file(), "--out=report.md"], "give it a name that ends with .json"),
    "an unknown metric": (lambda: [a_file(), "--gate=speed"], "unknown metric 'speed'"),
    "a tolerance in per cent": (lambda: [a_file(), "--gate=ttft_ms=3"], "a tolerance is a fraction"),
    "no number": (lambda: [a_file(), "--requests=many"], "it takes a whole number of at least 1"),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_a_mistake_is_said(cli, what):
    """Nothing is written, and the line says what to do."""
    make, message = MISTAKES[what]
    code, said = cli("import", "--out=report.json", *make())
    assert (code, message in said) == (4, True), said
    assert not Path("report.json").exists()


def test_a_damaged_file_is_named(cli):
    """The import ends with 1, as any reader of a damaged file."""
    Path("a.json").write_text(json.dumps(foreign_files.vllm())[:300])
    code, said = cli("import", "a.json", "--out=report.json")
    assert (code, said.startswith("slmperf: a.json: not JSON")) == (1, True)


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: Path(path).symlink_to("/dev/zero")], ids=["pipe", "device"])
def test_a_file_that_never_ends_is_refused(cli, make):
    """It is neither waited for nor read until the memory is full."""
    make("endless.json")
    code, said = cli("import", "endless.json", "--out=report.json")
    assert (code, "endless.json: it is no file" in said) == (4, True)


def test_a_report_is_written_as_vllm_writes_it(cli, imported):
    """And read again, it holds the same values, launch by launch as rounds of one."""
    imported("before")
    code, said = cli("report", "before.json", "--as=vllm-bench", "--out=vllm.json")
    assert (code, said) == (0, "vllm-bench: vllm.json\n")
    assert len(Path("vllm.json").read_text().splitlines()) == LAUNCHES
    code, said = cli("import", "vllm.json", "--out=again.json")
    assert (code, "(1×20 launches×rounds)" in said) == (0, True)
    ours, again = (json.loads(Path(name).read_text()) for name in ("before.json", "again.json"))
    assert again["machine"]["driver"] == "580.65"
    for name, sample in again["sweeps"][0]["cases"][0]["samples"].items():
        first = ours["sweeps"][0]["cases"][0]["samples"][name]["launches"]
        assert sample["launches"] == [[value for launch in first for value in launch]]


def test_a_form_is_printed_for_a_pipe(cli, imported):
    """`--out=-` writes nowhere."""
    imported("before")
    code, said = cli("report", "before.json", "--as=hud-v3", "--out=-")
    assert (code, json.loads(said)[0]["schema_version"]) == (0, "v3")


def test_a_search_is_told_as_of_no_load(cli, imported):
    """Forms that have one rate, or concurrency, for all that they hold have none of it."""
    imported("before", launches=1)
    report = json.loads(Path("before.json").read_text())
    case = report["sweeps"][0]["cases"][0]
    case["key"]["search.share"] = 0.99
    Path("searched.json").write_text(json.dumps(report))
    for form in ("llm-d", "vllm-bench"):
        code, said = cli("report", "searched.json", f"--as={form}", "--out=x", f"--case={case['case']}")
        assert (code, "is a search over many loads" in said) == (4, True), said
        code, said = cli("report", "searched.json", f"--as={form}", "--out=x")
        assert (code, "all are void, or searches" in said) == (4, True), said
    assert cli("report", "searched.json", "--as=hud-v3", "--out=-")[0] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("before.json", "--as=llm-d", "--out=."), ". is a directory"),
        (("before.json", "--as=llm-d", "--out=before.json/x"), "nothing can lie there"),
        (("before.json", "--as=llm-d", "--out=x", "--case=decode/x"), "decode/x was not measured; measured were"),
        (("gone.json", "--as=llm-d", "--out=x"), "gone.json: No such file"),
        (("before.json", "--as=csv", "--out=x"), "invalid choice: 'csv'"),
        (("void.json", "--as=hud-v3", "--out=x"), "no case of this report was measured"),
    ],
)
def test_a_form_that_cant_be_written_is_said(cli, imported, words, message):
    """And nothing is."""
    imported("before", launches=1)
    imported("void", launches=1, failed=1)
    code, said = cli("report", *words)
    assert (code, message in said) == (4, True), said
    assert not Path("x").exists()
