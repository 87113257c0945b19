"""What goes wrong is red with one message that names the way out, and leaves no process and no half-written file."""

import json
import resource

import pytest
from projects import ENGINE, SUITE, UNDECIDED, engines_of, prose

HANGS_S = 3
"""Far longer than a busy machine takes to start an interpreter, which counts, too."""
FAULTS = [
    ("fault=raises", "failed while loading the model: the fake engine was told to fail"),
    ("fault=raises,fault_batch=4", "failed while"),
    ("fault=unavailable", "cannot be had here: the fake engine was told not to be here; leave out the option fault"),
    ("fault=dies,fault_batch=4", "signal SIGKILL; often that is the kernel's out-of-memory killer"),
    ("fault=exits,fault_batch=4", "exit code 3"),
    ("fault=memory,fault_batch=4", "ran out of memory"),
    ("memory_limit_bytes=1000", "try a smaller batch or a lower rate, shorter prompts or a smaller dtype"),
    ("fault=short,fault_batch=4", "which asked for 16; the adapter must force the output length"),
    ("fault=babbles,fault_batch=4", "broke the protocol"),
    ("fault=hangs,fault_batch=4", f"gave no answer for {HANGS_S} s while"),
    ("falt=raises", "the fake engine has no option falt; it has level"),
    ("fault=sleeps", "the fake engine has no fault 'sleeps'; it has unavailable"),
]


@pytest.mark.parametrize(("option", "said"), FAULTS, ids=[option for option, _ in FAULTS])
def test_an_engine_that_fails_is_explained_once(project, option, said):
    """Whatever an engine does, its message is shown once in full, at the suite's own line, and its process is gone."""
    project.settings(f"answer_limit_s = {HANGS_S if 'hangs' in option else 60}")
    result = project.gate("--slmperf-report", "report.json", engine=f"{ENGINE},{option}")
    result.assert_outcomes(errors=4, skipped=1)
    assert said in prose(result)
    assert all(len(line) < 200 for line in result.outlines if line.startswith("Engine"))
    result.stdout.fnmatch_lines(
        [">       return slmperf.measure(DECODE, slm_engine(*", "the same error as in test_suite.py::*"]
    )
    assert "pytest_slmperf/" not in result.stdout.str()
    assert json.loads((project.path / "report.json").read_text())["complete"] is False
    assert not engines_of(project.path)


@pytest.mark.parametrize("option", ["slowed=1.5", "slowed=-0.1", "slowed=much"])
def test_a_loss_that_cannot_be_planted_is_refused_before_a_launch(project, option):
    """It is explained once, at the suite's own line, and no engine is started."""
    result = project.gate(engine=f"{ENGINE},{option}")
    assert result.parseoutcomes()["errors"] == 4
    assert f"{option}: it takes a share of at least 0 and below 0.9" in prose(result)
    result.stdout.fnmatch_lines(
        [">       return slmperf.measure(DECODE, slm_engine(*", "the same error as in test_suite.py::*"]
    )
    assert "pytest_slmperf/" not in result.stdout.str()
    assert "launch 1" not in result.stdout.str()


TWICE = """

AGAIN = Sweep("decode", StaticBatch(prompt_tokens=16, output_tokens=16), batch_size=[16])


def test_another_sweep_of_that_name(decode, slmperf, slm_engine):
    slmperf.measure(AGAIN, slm_engine("opt-125m"))
"""


@pytest.mark.parametrize(
    ("suite", "args", "engine", "said"),
    [
        (SUITE + TWICE, [], ENGINE, "decode/opt-125m/batch=16: measured already"),
        (SUITE, ["--slmperf-accept"], f"{ENGINE},slowed=0.1", "a loss that is planted on purpose is never recorded"),
        (SUITE, [], f"{ENGINE},slowed=2", "it takes a share of at least 0 and below 0.9"),
        (SUITE.replace('slm_engine("opt-125m")', "slm_engine()"), [], ENGINE, "slm_engine() needs a model"),
        (SUITE.replace('slm_engine("opt-125m")', "slm_engine"), [], ENGINE, "sweep 'decode' names no model"),
        (SUITE.replace('25m")', '25m", engine="other")'), [], ENGINE, "one run measures real engines or the simulated"),
    ],
    ids=["measured twice", "planted", "slowed too much", "no model", "no model in the sweep", "another engine"],
)
def test_what_ends_a_measurement_before_its_first_launch_is_a_problem_of_the_run(project, suite, args, engine, said):
    """The report says why, and that it isn't whole; nothing else is said of what nobody could measure."""
    project.write("test_suite.py", suite)
    result = project.gate(*args, "--slmperf-report=report.json", engine=engine)
    assert result.ret == 1
    report = json.loads((project.path / "report.json").read_text())
    assert report["complete"] is False
    assert said in report["problems"][0]
    assert "nothing measured it" not in prose(result)


def test_an_engine_that_prints_much_does_no_harm(project):
    """What an engine prints is no answer and no failure."""
    quick = project.gate("--slmperf-no-gate", engine=f"{ENGINE},fault=chatters,fault_batch=1")
    quick.assert_outcomes(skipped=4, passed=1)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "fake-decode.json"),
        (b'{"format": ', "fake-decode.json"),
        (b"\xff\xfe\x00", "fake-decode.json"),
        (b"[]", "fake-decode.json"),
    ],
    ids=["empty", "truncated", "binary", "another document"],
)
def test_a_damaged_baseline_is_red_and_stays_as_it_is(project, content, said):
    """A file that can't be read is named, and neither judged by nor written over."""
    project.baseline().write_bytes(content)
    for mode in ([], ["--slmperf-accept"]):
        result = project.gate(*mode)
        assert result.ret == 1
        assert said in prose(result)
        assert project.baseline().read_bytes() == content


def test_a_baseline_of_the_future_is_refused(project):
    """A file of a later version of this package asks for that version."""
    stored = json.loads(project.baseline().read_text())
    version = next(name for name, value in stored.items() if isinstance(value, int))
    project.baseline().write_text(json.dumps({**stored, version: stored[version] + 1}))
    result = project.gate()
    assert result.ret == 1
    assert "fake-decode.json" in prose(result)


def test_another_dtype_is_incomparable_and_names_the_field(project):
    """Samples that hold for something else are not compared, and the field that differs is named."""
    project.settings('dtype = "int8"')
    result = project.gate(UNDECIDED)
    result.assert_outcomes(failed=4, passed=1)
    assert "dtype: float32 (stored) → int8 (now)" in prose(result)
    assert "--slmperf-against=dtype=float32" in prose(result)


def test_real_engines_and_the_simulated_one_do_not_mix(project):
    """A run holds one machine: an engine of the other kind in a suite is refused."""
    pytest.importorskip("ctranslate2")
    project.write(
        "test_suite.py", SUITE.replace('slm_engine("opt-125m")', 'slm_engine("opt-125m", engine="ctranslate2")')
    )
    result = project.gate()
    result.assert_outcomes(errors=4, skipped=1)
    assert "one run measures real engines or the simulated one, not both" in prose(result)


def test_a_baseline_that_cannot_be_read_is_found_before_it_is_measured(fresh):
    """Where the folder is none, no launch is spent, and the report is still written."""
    fresh.write("baselines", "in the way")
    result = fresh.gate("--slmperf-accept", "--slmperf-report", "report.json")
    result.assert_outcomes(errors=4, failed=1)
    assert "baselines: Not a directory; name another folder" in prose(result)
    assert "nothing is recorded, since the measurement is not whole" in prose(result)
    assert (fresh.path / "report.json").exists()


def _small_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))


def test_a_full_disk_is_red_and_leaves_nothing_half_written(project, monkeypatch):
    """Where a file can't be finished, there is the old one or none, and the run says so."""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")  # or half of a module's is left for whoever comes next
    stored = project.baseline().read_bytes()
    run = project.start("--slmperf-accept", "--slmperf-report", "report.json", preexec_fn=_small_files)
    said, _ = run.communicate(timeout=60)
    assert run.returncode == 1
    assert "fake-decode.json: can't be written: File too large; what was stored still is" in " ".join(said.split())
    assert "the report report.json can't be written: File too large" in " ".join(said.split())
    assert project.baseline().read_bytes() == stored
    assert [path.name for path in project.baseline().parent.iterdir()] == ["fake-decode.json"]
    assert not list(project.path.glob("*report.json*"))


def test_two_runs_that_accept_at_once_lose_nothing(fresh):
    """Each writes its own cases into the same file, and both are there."""
    tests = [f"test_suite.py::test_throughput[batch{size}]" for size in (1, 16)]
    both = [fresh.start("--slmperf-accept", test) for test in tests]
    both = [(run, run.communicate(timeout=120)[0]) for run in both]
    assert [run.returncode for run, _ in both] == [0, 0], both
    cases = json.loads(fresh.baseline().read_text())["cases"]
    assert {"batch=1", "batch=16"} == {name.rpartition("/")[2] for name in cases}
