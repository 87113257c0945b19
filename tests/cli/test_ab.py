"""`slmperf ab`: two engines from the command line, and an exit code that a pipeline can act on."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest

QUICK = ("--batch-size", "4")
SPENT = (*QUICK, "--budget", "0.001")
"""Ends after the throw-away launches: enough to see which engines were meant."""


@pytest.fixture
def ab(verb_here):
    """Runs the verb in an empty project. Returns the exit code, and what was printed where."""
    return verb_here("ab")


def arms(project):
    """What the report says of the engines of A and B."""
    (sweep,) = json.loads((project / "report.json").read_text())["sweeps"]
    (a,), (b,) = sweep["baseline_specs"], sweep["specs"]
    return a, b


def test_an_engine_beside_itself_is_unchanged(ab):
    """Two arms alike pass, and the report says that they are."""
    code, out, _ = ab("same", "same", *QUICK, "--engine", "fake:launch_noise=0.002")
    assert code == 0
    assert "unchanged" in out
    assert "A and B: fake tiny-2x128, alike" in out


def test_what_it_will_take_is_said_beforehand(ab):
    """Beside the result, as the progress is: the cases, and the launches of each arm."""
    _, out, err = ab("same", "same", *SPENT, "--engine=fake")
    assert err.startswith(
        "slmperf: ab: 1 case: ab/tiny-2x128/batch=4\nslmperf: ab: 8 to 16 launches in each of two arms"
    )
    assert "8 to 16 launches" not in out


def test_a_loss_in_one_replica_alone_fails_and_names_it(ab):
    """The pool is as slow as the slowest of its replicas, and the verdict says which that is."""
    engine = "--engine=fake:replicas=2,launch_noise=0.002"
    code, out, _ = ab("same", "slowed=0.2,slowed_replica=2", *QUICK, engine)
    assert code == 1
    assert re.search(r"not all 2 replicas have lost alike: replica 2 -(19|20)\.\d%, the others", " ".join(out.split()))
    assert "note: replica 2 of 2 is behind" in out


def test_a_planted_loss_fails_and_is_said_to_be_planted(ab):
    """B is judged by A: a loss of B is red, and exits as pytest does."""
    code, out, _ = ab("engine=fake", "slowed=0.2", *QUICK)
    assert code == 1
    assert "regressed - confirmed by fresh launches: -20.0%" in out
    assert "A: fake tiny-2x128; B: fake tiny-2x128, slowed=0.2" in out


def test_a_gain_passes(ab):
    """A loss of A is a gain of B."""
    code, out, _ = ab("slowed=0.2", "engine=fake", *QUICK)
    assert code == 0
    assert "1 improved" in out


@pytest.mark.parametrize(
    ("words", "a", "b"),
    [
        (("level=500", "level=500,dtype=int8", "--engine=fake"), {"level": 500}, {"level": 500}),
        (("same", "level=600", "--engine=fake:level=500,seed=1"), {"level": 500, "seed": 1}, {"level": 600, "seed": 1}),
        (("engine=fake,level=500", "same"), {"level": 500}, {}),
        (("same", "engine=fake,level=500"), {}, {"level": 500}),
    ],
    ids=["engine for both", "options for both", "engine of A", "engine of B"],
)
def test_an_arm_has_what_it_names_and_what_both_have_and_nothing_of_the_other(ab, tmp_path, words, a, b):
    """Options come from the arm or from --engine; of the other arm's, only an engine's name is taken over."""
    ab(*words, *SPENT, "--report=report.json")
    assert [arm["engine"] for arm in arms(tmp_path)] == ["fake", "fake"]
    assert [arm["options"] for arm in arms(tmp_path)] == [a, b]


def test_what_nobody_names_is_the_projects(ab, tmp_path):
    """Engine, dtype and threads come from [tool.slmperf] where neither arm says otherwise."""
    (tmp_path / "pyproject.toml").write_text('[tool.slmperf]\nengine = "fake"\ndtype = "int8"\nthreads = 2\n')
    ab("same", "dtype=float32,threads=1", *SPENT, "--report=report.json")
    assert [(arm["dtype"], arm["threads"]) for arm in arms(tmp_path)] == [("int8", 2), ("float32", 1)]


def test_options_of_the_projects_engine_hold_for_an_arm_of_it(ab, tmp_path):
    """As those of --engine do, which replaces them; an arm's own win."""
    (tmp_path / "pyproject.toml").write_text('[tool.slmperf]\nengine = "fake:level=500,seed=1"\n')
    ab("same", "engine=fake,level=600", *SPENT, "--report=report.json")
    assert [arm["options"] for arm in arms(tmp_path)] == [{"level": 500, "seed": 1}, {"level": 600, "seed": 1}]
    ab("same", "same", "--engine=fake:level=400", *SPENT, "--report=report.json")
    assert [arm["options"] for arm in arms(tmp_path)] == [{"level": 400}, {"level": 400}]


def test_another_environment_is_named(ab):
    """An arm may have an interpreter of its own, and what a spent budget leaves undecided doesn't pass."""
    code, out, _ = ab(f"python={sys.executable}", "same", "--engine=fake", *SPENT)
    assert code == 1
    assert f"A: fake tiny-2x128, python={sys.executable}" in " ".join(out.split())
    assert "1 inconclusive" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("engine=fake,", "same"), "A: '' is not KEY=VALUE, as in dtype=int8"),
        (("same", "python="), "B: 'python=' is not KEY=VALUE"),
        (("level=1,level=2", "same"), "A: level is given twice: 1 and 2"),
        (("level=nan", "same", "--engine=fake"), "'level' of an engine: nan is no finite number"),
        (("same", "level=1e9999", "--engine=fake"), "'level' of an engine: inf is no finite number"),
        (("same", "same", f"--engine=fake:level=1{'0' * 400}"), "'level' of an engine: a whole number beyond 1e308"),
        (("same", "same", "--engine=fake", "--model=a\udcff/b"), r"'--model=a\udcff/b': '\udcff' is no character"),
        (("same", "threads=0"), "B: threads=0: it takes a whole number of at least 1"),
        (("same", "threads=two"), "B: threads=two: it takes a whole number of at least 1"),
        (("slowed=2", "same"), "A: slowed=2: it takes a share of at least 0 and below 0.9"),
        (("slowed=much", "same"), "A: slowed=much: it takes a share"),
        (("same", "python=/nowhere/python"), "B: there is no such interpreter: /nowhere/python"),
        (("engine=nonesuch", "same"), "unknown engine 'nonesuch': known are"),
        (("same", "same", "--engine=:level=1"), "--engine :level=1: it takes NAME or NAME:KEY=VALUE,KEY=VALUE"),
        (("same", "same", "--engine=fake:level"), "--engine: 'level' is not KEY=VALUE"),
        (("same", "same", "--batch-size=1,many"), "'1,many': it takes whole numbers of at least 1, as in 1,16"),
        (("same", "same", "--request-rate=1,many"), "'1,many': it takes numbers, as in 0.5,2"),
        (("same", "same", "--request-rate=1", "--concurrency=1"), "not allowed with argument"),
        (("same", "same", "--gate=output_throughput=3%"), "a tolerance is a fraction, as in output_throughput=0.03"),
        (("same", "same", "--gate=output", "--engine=fake"), "unknown metric 'output'"),
        (("same", "same", "--report=report.txt"), "report.txt: a report's name ends with"),
        (("same",), "the following arguments are required: B"),
    ],
)
def test_wrong_usage_is_refused_before_a_launch(ab, words, said):
    """What makes no sense is answered with the arm and what it takes, and exits with 4."""
    code, out, err = ab(*words)
    assert code == 4
    assert said in err
    assert "launch" not in err
    assert out == ""


def test_an_engine_that_refuses_fails_and_leaves_a_report(ab, tmp_path):
    """What only the engine can know is found out by its first launch, and the report says what happened."""
    code, _, err = ab("same", "flavour=sweet", "--engine=fake", *QUICK, "--report=report.json")
    assert code == 1
    assert "the fake engine has no option flavour" in err
    assert json.loads((tmp_path / "report.json").read_text())["complete"] is False


def test_a_reader_that_went_away_makes_no_pass():
    """`slmperf ab … | head` under pipefail doesn't turn a loss into a pass."""
    program = "import sys; from pytest_slmperf.cli import main; sys.exit(main())"
    words = ("engine=fake", "slowed=0.2", *SPENT)
    unread, written = os.pipe()
    os.close(unread)
    try:
        done = subprocess.run(
            [sys.executable, "-c", program, "ab", *words],
            stdout=written,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(written)
    assert done.returncode == 128 + signal.SIGPIPE
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_help_says_what_an_arm_takes_over(ab):
    """Nobody has to find out by trying what B takes from A."""
    code, out, _ = ab("--help")
    assert code == 0
    assert "What an arm doesn't name comes from --engine and --model, then from" in out


SHORT = "[tool.slmperf]\ntraffic_s = 1\n"


def test_requests_that_arrive_at_a_rate_are_judged_by_their_latencies(ab, tmp_path):
    """Their throughput is what was offered; a loss shows in the time that each takes."""
    (tmp_path / "pyproject.toml").write_text(SHORT)
    code, out, _ = ab("engine=fake,launch_noise=0.002", "engine=fake,slowed=0.2", "--request-rate=20")
    assert code == 1
    assert "tiny-2x128/rate=20" in out
    assert "2 regressed" in out
    assert "measured, not gated: output_throughput" in out


def test_requests_under_way_are_judged_by_their_throughput(ab, tmp_path):
    """As batches are: it is the engine that says how soon the next is sent."""
    (tmp_path / "pyproject.toml").write_text(SHORT)
    code, out, _ = ab("same", "same", "--concurrency=4", "--engine=fake:launch_noise=0.002")
    assert (code, "1 unchanged" in out) == (0, True)
