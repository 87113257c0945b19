"""Baselines whose sweep is gone: seen in a whole run, not told in a part, and never mistaken for another job's."""

import sys

import pytest
from projects import BASELINE, SETTINGS, SUITE, prose

RENAMED = SUITE.replace('Sweep("decode"', 'Sweep("generate"')
LATENCY = """
from pytest_slmperf import StaticBatch, Sweep

LATENCY = Sweep("latency", StaticBatch(prompt_tokens=16, output_tokens=16), batch_size=[1])

@LATENCY.each
def test_answer(slmperf, slm_engine, batch_size):
    assert slmperf.measure(LATENCY, slm_engine("opt-125m"))[batch_size].ttft_ms <= 60_000
"""
GONE = f"{BASELINE} holds decode, and no sweep has that name any more: git rm "
UNSEEN = "no test of this run looks at fake-decode.json in "


@pytest.fixture
def with_latency(project):
    """A project with a second suite, which gates nothing, in a folder of its own."""
    project.write("suites/latency/test_first_answer.py", LATENCY)
    return project


def test_the_baseline_of_a_removed_suite_is_red_in_a_whole_run(with_latency):
    """A file whose sweep no test names names the command that removes it."""
    (with_latency.path / "test_suite.py").unlink()
    result = with_latency.gate()
    result.assert_outcomes(passed=1, failed=1)
    assert GONE in prose(result)


def test_the_baseline_of_a_renamed_sweep_is_red_beside_the_new_one(project):
    """Under its old name nothing looks at it any more, and under the new one there is nothing."""
    project.write("test_suite.py", RENAMED)
    assert project.gate("--slmperf-accept").ret == 0
    result = project.gate()
    result.assert_outcomes(passed=4, failed=1)
    assert f"{GONE}" in prose(result)
    assert "if the sweep was renamed, record it: pytest --slmperf" in prose(result)


@pytest.mark.parametrize(
    "words",
    [
        ("suites",),
        ("suites/latency",),
        ("suites/latency/test_first_answer.py",),
        ("--ignore=test_suite.py",),
        ("--ignore-glob=*_suite.py", "."),
    ],
)
def test_a_part_of_the_suites_is_no_reason_to_remove_anything(with_latency, words):
    """Another suite, which was not collected, may have the sweep whose baseline it is: it was not looked at."""
    result = with_latency.gate(*words)
    assert result.ret == 0
    assert UNSEEN in prose(result)
    assert "git rm" not in prose(result)


def test_a_sweep_that_was_collected_and_deselected_is_not_gone(with_latency):
    """What -k leaves out was collected, so that its sweep is known."""
    result = with_latency.gate("-k", "test_answer")
    assert result.ret == 0
    assert GONE not in prose(result)
    assert UNSEEN not in prose(result)


@pytest.mark.parametrize(
    ("setting", "words", "code"),
    [
        ('testpaths = ["suites"]', (), 1),
        ('testpaths = ["suites"]', ("suites",), 1),
        ('testpaths = ["suites"]', ("suites/latency",), 0),
        ('testpaths = ["suites", "."]', ("suites",), 0),
        ('addopts = ["--ignore=test_suite.py", "-ra"]', (), 1),
        ('addopts = ["--ignore=test_suite.py", "-ra"]', ("--ignore=other",), 0),
    ],
)
def test_what_the_project_always_leaves_out_is_gone(with_latency, setting, words, code):
    """`testpaths` and the `addopts` say what the whole of a project is; naming less is a part."""
    with_latency.write("pyproject.toml", f"{SETTINGS}{setting}\n")
    result = with_latency.gate(*words)
    assert result.ret == code
    assert (GONE if code else UNSEEN) in prose(result)


@pytest.mark.parametrize(
    ("suites", "words", "code"),
    [
        (["suites"], ("suites",), 1),
        (["suites"], ("suites/latency",), 0),
        (["gpu_suites/../suites/"], ("suites",), 1),
        (["suites"], (".",), 1),
        (["suites", "gpu_suites"], ("suites",), 0),
        (["suites", "gpu_suites"], ("suites", "gpu_suites"), 1),
    ],
)
def test_a_project_says_which_folders_hold_all_of_its_suites(with_latency, suites, words, code):
    """A run of them all is a run of the whole project, whatever else pytest's `testpaths` names."""
    (with_latency.path / "test_suite.py").unlink()
    (with_latency.path / "gpu_suites").mkdir()
    settings = SETTINGS.replace("[tool.slmperf]\n", f"[tool.slmperf]\nsuites = {suites}\n")
    with_latency.write("pyproject.toml", f'{settings}testpaths = ["tests"]\n')
    result = with_latency.gate(*words)
    assert result.ret == code
    assert (GONE if code else UNSEEN) in prose(result)


def test_a_suite_that_is_skipped_is_not_gone(with_latency):
    """A test that is skipped still names its sweep: red is that nothing measured it, and not its baseline."""
    skipped = SUITE.replace("@DECODE.each", "@pytest.mark.skip(reason='not today')\n@DECODE.each")
    with_latency.write("test_suite.py", skipped)
    result = with_latency.gate()
    result.assert_outcomes(passed=1, skipped=4, failed=1)
    assert "sweep 'decode' is declared and nothing measured it" in prose(result)
    assert "no sweep has that name" not in prose(result)


def test_the_baseline_of_another_engine_belongs_to_another_job(project):
    """One machine's folder may hold what a job with another engine measures."""
    stored = project.baseline()
    other = stored.read_text().replace('"engine": "fake"', '"engine": "other"').replace('"decode"', '"prefill"')
    stored.with_name("other-prefill.json").write_text(other)
    result = project.gate()
    assert result.ret == 0
    assert "other-prefill.json" not in prose(result)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("fake-prefill.json", "{", "fake-prefill.json: $: not JSON at line 1"),
        ("fake-copy.json", None, "fake-copy.json holds decode, which is looked for in "),
    ],
)
def test_a_file_that_no_run_can_compare_with_is_red(project, name, content, said):
    """A damaged file of this engine, and one under a wrong name, are named with the way out."""
    stored = project.baseline()
    stored.with_name(name).write_text(content or stored.read_text())
    result = project.gate()
    result.assert_outcomes(passed=4, failed=1)
    assert said in prose(result)


def test_no_stored_file_matters_beside_another_environment(project):
    """A comparison with another python needs no baseline, so that a damaged or orphaned one makes it neither red."""
    project.baseline().write_text("{")
    project.baseline().with_name("fake-prefill.json").write_text("{")
    noisy = "fake:noise=0.002,launch_noise=0.002"  # a seed would give both arms the same values
    result = project.gate("--slmperf-against", f"python={sys.executable}", engine=noisy)
    result.assert_outcomes(passed=5)
    assert "prefill" not in prose(result)
