"""`slmperf advise`, from the command line: on results, on the simulated engine, and of a mix."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from importlib.resources import files
from pathlib import Path

import jsonschema_rs
import nvml_standin
import pytest

from pytest_slmperf.cli.advise.screen import Screen

PROGRAM = "import sys; from pytest_slmperf.cli import main; sys.exit(main(sys.argv[1:]))"
PAGE = Path(__file__).parents[2] / "docs" / "advise.md"
FAKE = "--engine=fake:launch_noise=0.003,seed=1"
ONE = ("--replicas=1", "--batch-size=1,4,16,64")
TABLE = """\
model,gpu,batch,replicas,output_throughput,itl_ms
opt-1.3b,H100,64,1,5908,10.4
opt-1.3b,H100,768,1,8017,72.9
opt-1.3b,H100,768,1,7956,73.8
opt-1.3b,H100,512,2,10642,37.1
opt-125m,H100,64,1,20000,2.5
opt-125m,H100,512,1,30000,9.5
"""


def schema(name):
    text = (files("pytest_slmperf") / "schemas" / f"{name}.json").read_text(encoding="utf-8")
    return jsonschema_rs.validator_for(json.loads(text))


@pytest.fixture
def advise(advise_here):
    """The verb, beside a table."""
    Path("table.csv").write_text(TABLE)
    return advise_here


# -- results


def test_results_are_answered_without_a_launch(advise, tmp_path):
    """What to run, the gain with its interval, whether replication pays; and nothing is left behind."""
    code, out, _ = advise("table.csv", "--model=opt-1.3b")
    assert code == 0
    assert "run opt-1.3b with batch 256 in each of 2 replicas\n" in out
    assert "output_throughput 10,642 tok/s: +33.3% (95 % CI +8.0%…+64.5%)" in out
    assert "over batch 768 of one instance, its largest, 7986 tok/s" in out
    assert "replication pays: batch 256 in each of 2 replicas against batch 768 of one instance" in out
    assert "nothing was measured now" in out
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]


def test_the_document_keeps_its_schema(advise):
    """With an answer, and where nothing keeps the limits."""
    valid = schema("advice")
    for words, code in ((("--limit=itl_ms=50",), 0), (("--limit=itl_ms=1",), 1)):
        ended, out, _ = advise("table.csv", "--model=opt-1.3b", "--json", *words)
        told = json.loads(out)
        valid.validate(told)
        assert ended == code
        assert (told["advised"] is None) is bool(code)
    assert [miss["metric"] for miss in told["nearest"]["misses"]] == ["median_itl_ms"]
    assert told["nearest"]["batch"] == 64


def test_a_limit_that_nothing_keeps_fails_and_says_by_how_much(advise):
    """With the nearest."""
    code, out, _ = advise("table.csv", "--model=opt-1.3b", "--limit=itl_ms=5")
    assert code == 1
    assert "nothing that was measured of opt-1.3b keeps the limits" in out
    assert "nearest: batch 64 of one instance: median_itl_ms 10.4 ms, at most 5 ms: 108.0% beyond it" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("table.csv",), "several models: choose one, --model=opt-1.3b"),
        (("table.csv", "--model=opt-13b"), "the results hold nothing of opt-13b"),
        (("table.csv", "--model=opt-1.3b", "--for=joules"), "the results don't have joules_per_output_token"),
        (("table.csv", "--model=opt-1.3b", "--limit=mean_power_w=300"), "no setting has mean_power_w"),
        (
            ("table.csv", "--model=opt-1.3b", "--batch-size=4"),
            "--batch-size: nothing is measured where RESULTS are given",
        ),
        (("table.csv", "--case=nonesuch"), "no case is called nonesuch"),
        (("nowhere.json",), "nowhere.json: there is no such file"),
        (("nowhere.csv",), "nowhere.csv: No such file"),
        (("--limit=itl_ms",), "'itl_ms' is not METRIC=VALUE"),
        (("--for=speed", "--engine=fake"), "unknown metric 'speed'"),
        (("--engine=nonesuch",), "unknown engine 'nonesuch'"),
        (("--model=opt-12b", "--engine=ctranslate2"), "unknown model 'opt-12b'. Did you mean"),
        (("--batch-size=0",), "'0': it takes whole numbers of at least 1"),
        (("--within=2",), "'2': it takes a share between 0 and 1"),
        (("--launches=0", "--engine=fake"), "'0': it takes a whole number of at least 1"),
        (
            ("--batch-size=1000000000000", "--engine=fake"),
            "requests in all replicas together: it takes at most 100,000",
        ),
        (("--need=opt-125m=5",), "--need is of a mix"),
        (("--devices=2",), "--devices is of a mix"),
        (("--model=opt-125m", "--model=opt-1.3b", "--need=x=5"), "--need of x: no --model is called so"),
        (("--model=opt-125m", "--model=opt-1.3b", "--need=opt-125m"), "it takes MODEL=RATE"),
        (("--model=opt-125m", "--engine=ctranslate2", "--memory=0.2"), "opt-125m does not fit"),
        (("--engine=ctranslate2", "--threads=100000", "--replicas=1"), "needs 100000 cores, and this machine gives"),
        (("--model=opt-125m", "--engine=ctranslate2", "--output-tokens=5000"), "exceed the context of opt-125m, 2048"),
    ],
)
def test_wrong_usage_is_refused_before_a_launch(advise, words, said):
    """What makes no sense is answered with what it takes, and exits with 4."""
    code, out, err = advise(*words)
    assert code == 4
    assert said in " ".join(err.split())
    assert out == ""


def test_the_page_says_what_is_printed(advise):
    """The table of docs/advise.md gives its answer, and none for joules."""
    page = PAGE.read_text(encoding="utf-8")
    table, shown = (page.partition(f"```{kind}\n")[2].partition("```")[0] for kind in ("csv", "text"))
    Path("papers.csv").write_text(table)
    _, out, _ = advise("papers.csv", "--limit=itl_ms=40")
    assert " ".join(shown.split()) in " ".join(out.split())
    _, out, _ = advise("papers.csv", "--for=joules")
    assert "whether replication pays can't be told" in out


# -- measured


def test_it_measures_until_it_is_settled_and_keeps_each_launch(advise, tmp_path):
    """The largest batch first, fewer launches than all, each kept; and a second run measures nothing more."""
    code, out, err = advise(FAKE, *ONE)
    assert code == 0
    state = json.loads((tmp_path / "slmperf-advise-tiny-2x128.json").read_text())
    schema("advise_state").validate(state)
    assert state["launches"][0]["batch"] == 64
    launches = {one["at"] for one in state["launches"]}
    assert len(launches) < len(state["launches"])
    assert len(launches) <= 5
    assert "run tiny-2x128 with batch 64 of one instance" in out
    assert "slmperf: launch 1: batch 64 of one instance, float32, 1 thread: one instance at its largest batch" in err
    assert f"settled after {len(launches)} launches" in out
    again, _, err = advise(FAKE, *ONE)
    assert again == 0
    assert f"going on from {len(launches)} launches" in err
    assert "slmperf: 0 launches now" in err
    assert json.loads((tmp_path / "slmperf-advise-tiny-2x128.json").read_text()) == state


def test_another_question_rests_on_the_same_launches(advise):
    """Limits and what is wanted may change; the file is taken as results, too."""
    advise(FAKE, *ONE, "--limit=itl_ms=3")
    code, out, _ = advise("slmperf-advise-tiny-2x128.json", "--limit=itl_ms=3")
    assert code == 0
    assert "(at most 3 ms)" in out


def test_what_is_not_asked_for_is_not_advised(advise):
    """Of what is kept, only the settings of this question count."""
    advise(FAKE, *ONE)
    code, out, _ = advise(FAKE, "--replicas=1", "--batch-size=1,4,16")
    assert code == 0
    assert "run tiny-2x128 with batch 16 of one instance" in out
    assert "batch 64" not in out


def test_joules_are_measured_where_a_meter_tells_them(tmp_path):
    """On the stand-in driver: fewer of them with the larger batch, within a limit of watts."""
    try:
        statements = nvml_standin.write_scenario(tmp_path / "scenario", ("power 0 70",))
        environment = {**os.environ, **nvml_standin.environment(statements)}
    except nvml_standin.NoCompiler as error:
        pytest.skip(str(error))
    pytest.importorskip("pynvml")
    (tmp_path / "pyproject.toml").write_text("[tool.slmperf]\nwindow_s = 0.2\nlead_in_s = 0.05\nround_s = 0.02\n")
    words = ["--engine=fake:real_time=true,load_log=load,seed=1", "--replicas=1", "--batch-size=4,64", "--launches=1"]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "advise", *words, "--for=joules", "--limit=mean_power_w=500"],
        cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8", timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "run tiny-2x128 with batch 64 of one instance" in done.stdout
    assert "W (at most 500 W)" in done.stdout


def test_a_file_of_something_else_is_refused(advise):
    """Launches of another workload, of another engine, and what is damaged."""
    advise(FAKE, *ONE)
    code, _, err = advise(FAKE, *ONE, "--output-tokens=16")
    assert code == 4
    assert "its launches are of something else (output_tokens: 32 → 16): name another file with --state" in err
    Path("broken.json").write_text('{"format": "slmperf-advise", "version": 1}')
    code, _, err = advise(FAKE, *ONE, "--state=broken.json")
    assert code == 1
    assert "broken.json: $" in err
    Path("new.json").write_text('{"format": "slmperf-advise", "version": 9}')
    code, _, err = advise(FAKE, *ONE, "--state=new.json")
    assert "written by a newer pytest-slmperf" in err


def test_a_batch_that_runs_out_of_memory_is_told_and_what_fits_is_advised(advise):
    """The largest batch that runs is what the others are compared with."""
    limit = 250_000_000 + 40_000 * 64 * 20
    code, out, err = advise(f"{FAKE},memory_limit_bytes={limit}", *ONE)
    assert code == 0
    assert "could not be run" in err
    assert "run tiny-2x128 with batch 16 of one instance" in out


def test_no_memory_for_one_request_is_an_error(advise):
    """And not advice."""
    code, out, err = advise("--engine=fake:memory_limit_bytes=1", "--replicas=1", "--batch-size=1,2")
    assert code == 4
    assert "nothing could be run: batch 1 of one instance, float32, 1 thread could not be run" in err
    assert "bytes are needed and 1 are there" in err
    assert out == ""


def test_joules_without_a_meter_are_refused(advise):
    """Before a launch is made for them."""
    code, _, err = advise(FAKE, *ONE, "--for=joules")
    assert code == 4
    assert "joules_per_output_token can't be had here" in err


def test_a_terminal_shows_rounds_and_why_one_is_repeated_on_a_line_that_is_rewritten(monkeypatch):
    """A log has neither: there a launch is told when it begins and ends."""
    for terminal in (True, False):
        stderr = io.StringIO()
        stderr.isatty = lambda terminal=terminal: terminal
        monkeypatch.setattr(sys, "stderr", stderr)
        screen = Screen()
        screen.tell("advise/tiny/batch=1", 1, 4)
        screen.retrying("requests were sent\n5 ms late", 2, 5)
        screen.say("launch 2")
        drawn = (
            "round 1 of 4: advise/tiny/batch=1",
            "a round was void, try 2 of 5: requests were sent 5 ms late",
        )
        rewritten = "".join(f"\r\x1b[Kslmperf: {line}" for line in drawn) + "\r\x1b[K"
        assert stderr.getvalue() == (rewritten if terminal else "") + "slmperf: launch 2\n"


def test_a_spent_budget_leaves_it_unsettled(advise):
    """What there is is told, and the exit code says that it isn't settled."""
    advise(FAKE, *ONE, "--launches=1")
    Path("slmperf-advise-tiny-2x128.json").rename("kept.json")
    code, out, _ = advise(FAKE, *ONE, "--launches=3", "--budget=0.0000001", "--state=kept.json")
    assert code == 1
    assert "not settled after" in out
    assert "the budget is spent; the same command goes on" in out


def test_an_interruption_loses_no_launch(tmp_path):
    """Ctrl-C exits with 2, names the file, and the same command goes on from it."""
    words = ["advise", "--engine=fake:start_sleep_s=1,seed=1", *ONE]
    # What a shell starts in the background ignores Ctrl-C, and so would what is started here.
    listening = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler); {PROGRAM}"
    command = [sys.executable, "-c", listening, *words]
    started = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    state = tmp_path / "slmperf-advise-tiny-2x128.json"
    until = time.monotonic() + 300
    while not (state.exists() and json.loads(state.read_text())["launches"]) and time.monotonic() < until:
        time.sleep(0.05)
    os.kill(started.pid, signal.SIGINT)
    _, err = started.communicate(timeout=300)
    assert started.returncode == 2
    assert "what was measured is kept in slmperf-advise-tiny-2x128.json; the same command goes on from there" in err
    assert json.loads(state.read_text())["launches"]


def test_two_at_once_keep_the_launches_of_both(tmp_path):
    """Where no lock makes one wait for the other, as of endpoints, the file has them all."""
    words = ["advise", "--engine=fake:start_sleep_s=0.3", "--replicas=1", "--batch-size=1,16", "--state=both.json"]
    command = [sys.executable, "-c", PROGRAM, *words]
    pair = [subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [one.communicate(timeout=300)[1] for one in pair]
    assert [one.returncode for one in pair] == [0, 0], said
    made = sum(err.count(" tok/s\n") for err in said)
    kept = json.loads((tmp_path / "both.json").read_text())["launches"]
    assert len(kept) == made > 2


# -- a mix


def test_a_mix_is_planned_by_need_and_measurement(advise):
    """Device, memory, replicas and batch of each; and that the mix itself was not measured."""
    words = ("--model=opt-125m", "--model=opt-1.3b", "--need=opt-125m=5000", "--memory=80", "--dtype=float16")
    code, out, _ = advise("table.csv", *words, "--need=opt-1.3b=5000")
    assert code == 0
    assert "opt-125m" in out
    assert "asked for" in out
    assert "the mix itself was not measured" in out
    code, out, _ = advise("table.csv", *words, "--need=opt-1.3b=20000", "--json")
    told = json.loads(out)
    schema("mix").validate(told)
    assert (code, told["met"]) == (1, False)
    assert [part["model"] for part in told["parts"]] == ["opt-125m", "opt-1.3b"]


def test_a_mix_that_does_not_fit_says_what_it_lacks(advise):
    """Nothing is planned then."""
    code, _, err = advise("--model=opt-125m", "--model=opt-13b", "--memory=16", "--dtype=float16", "--engine=fake")
    assert code == 4
    assert "opt-13b does not fit: its weights take 23.9 GiB" in err
    code, out, _ = advise(
        "--model=opt-125m", "--model=opt-13b", "--memory=16", "--dtype=float16", "--engine=fake", "--devices=2"
    )
    assert code == 0
    assert "tensor parallel over 2" in out
    assert "nothing was measured of it alone" in out


def test_the_memory_of_a_mix_is_that_of_the_settings_engine(advise):
    """Where its server is on another machine, nobody knows how much there is, and this machine's isn't taken for it."""
    Path("pyproject.toml").write_text('[tool.slmperf]\nengine = "openai:url=http://192.0.2.1:8000"\n')
    words = ("table.csv", "--model=opt-125m", "--model=opt-1.3b")
    code, _, err = advise(*words)
    assert code == 4
    assert "how much memory remote 192.0.2.1:8000 has isn't known: say it with --memory" in err
    assert advise(*words, "--memory=80")[0] == 0


def test_a_result_that_is_too_large_is_refused(advise):
    """It is read no further than its size."""
    with Path("huge.json").open("wb") as file:
        file.truncate(1 << 30)
    code, _, err = advise("huge.json")
    assert code == 4
    assert "huge.json: it has more than 256 MiB" in err
