"""A recording loses nothing that was measured, and what stops it is found before the first launch."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from projects import BASELINE, ENGINE, SUITE, Project, prose

from pytest_slmperf.core.machine import slug

RUN = "from pytest_slmperf.cli import main; raise SystemExit(main())"
NOISY = "fake:launch_noise=0.01,seed=1"


@pytest.fixture(scope="module")
def refused(tmp_path_factory):
    """A project with a recording that was refused for its noise, and what that run said."""
    project = Project(tmp_path_factory.mktemp("refused"))
    return project, project.apart("--slmperf-accept", engine=NOISY, keep=("cacheprovider",))


@pytest.fixture
def kept(refused, fresh):
    """That recording, kept in a project of the test's own."""
    there, here = (
        path / ".pytest_cache/d/slmperf/unrecorded" / slug(str(path / "baselines"))
        for path in (refused[0].path, fresh.path)
    )
    shutil.copytree(there, here)
    return _kept(fresh)


def test_a_recording_that_is_refused_is_kept_and_accepted_once_its_cause_is_mended(refused, fresh, kept):
    """Twenty launches aren't made again for a setting that was missing."""
    project, said = refused
    assert said.endswith("exit code 1"), said
    offered = f"that its noise supports: slmperf baselines accept {_kept(project)} --tolerance=supported"
    assert offered in " ".join(said.split())
    assert not (project.path / "baselines").exists()
    _accept(fresh, str(kept), "--tolerance=supported")


def _accept(project, *words):
    command = [sys.executable, "-c", RUN, "baselines", "accept", *words]
    done = subprocess.run(command, cwd=project.path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert project.baseline().exists()


def test_a_recording_that_could_not_be_stored_is_accepted_as_it_is_once_it_can(fresh):
    """Where its noise is none of the reasons, no other tolerance is offered."""
    damages = f"file = pathlib.Path({BASELINE!r})\n    file.parent.mkdir(parents=True)\n    file.write_text('{{')\n"
    fresh.write("test_suite.py", f"import pathlib\n{SUITE}\ndef test_damages(decode):\n    {damages}")
    refused = fresh.gate("--slmperf-accept", "--slmperf-baselines=baselines", keep=("cacheprovider",))
    assert refused.ret == pytest.ExitCode.TESTS_FAILED
    kept = _kept(fresh)
    assert f"once the problem is mended: slmperf baselines accept {kept} --baselines=baselines" in prose(refused)
    fresh.baseline().unlink()
    _accept(fresh, str(kept), "--baselines=baselines")


@pytest.mark.parametrize(
    ("engine", "because"),
    [
        ("fake:launch_noise=0.2,seed=1", "leaves even a tolerance of 15% undecided"),
        (f"{ENGINE},drift=0.02", "the clock or a neighbour changed meanwhile"),
    ],
    ids=["noise", "drift"],
)
def test_a_recording_that_no_tolerance_helps_is_not_offered_to_be_accepted(fresh, engine, because):
    """Only other samples do."""
    refused = fresh.gate("--slmperf-accept", engine=engine, keep=("cacheprovider",))
    assert refused.ret == pytest.ExitCode.TESTS_FAILED
    assert because in prose(refused)
    assert "baselines accept" not in prose(refused)
    assert not _all_kept(fresh)


def test_a_refused_recording_replaces_none_of_other_cases(fresh, kept):
    """It is kept beside them, and told where; one that has all the cases of others takes their place, and they go."""
    whole = kept.read_bytes()
    one = fresh.gate("--slmperf-accept", "-k", "batch16", engine=NOISY, keep=("cacheprovider",))
    beside = kept.with_name(f"{kept.stem}+2.json")
    assert f"that its noise supports: slmperf baselines accept {beside} --tolerance=supported" in prose(one)
    assert (kept.read_bytes(), _all_kept(fresh)) == (whole, [beside, kept])
    fresh.gate("--slmperf-accept", engine=NOISY, keep=("cacheprovider",))
    assert _kept(fresh) == kept
    assert kept.read_bytes() != whole


def test_a_tolerance_that_the_noise_does_not_support_is_refused(fresh):
    """The smallest that it supports is named, and nothing is stored, nor kept beside the report that has it all."""
    refused = fresh.gate("--slmperf-accept", "--slmperf-report=x.json", engine=NOISY, keep=("cacheprovider",))
    refused.assert_outcomes(skipped=4, failed=1)
    refused.stdout.fnmatch_lines(["*slmperf decode: measured, and NOT recorded*", "problem: nothing is recorded:"])
    report = json.loads((fresh.path / "x.json").read_text())
    assert report["recorded"] is False
    assert "nothing is recorded" in report["problems"][0]
    assert "supported by its noise and the 0.7% between two days of a machine, and 3.0% is asked for" in prose(refused)
    assert not fresh.baseline().exists()
    assert "is kept" not in refused.stdout.str()


def test_a_recording_that_could_never_be_accepted_is_not_kept(fresh):
    """Of an engine that failed half way there is nothing to accept."""
    refused = fresh.gate("--slmperf-accept", engine="fake:fault=short,fault_batch=5", keep=("cacheprovider",))
    assert refused.ret == pytest.ExitCode.TESTS_FAILED
    assert "is kept" not in refused.stdout.str()


def test_a_recording_that_can_not_be_kept_says_so(fresh):
    """The refusal and its reason are told all the same."""
    fresh.write(".pytest_cache", "a file in the folder's place")
    refused = fresh.gate("--slmperf-accept", "-W", "ignore", engine=NOISY, keep=("cacheprovider",))
    assert refused.ret == pytest.ExitCode.TESTS_FAILED
    assert "what was measured could not be kept" in prose(refused)
    assert "nothing is recorded" in prose(refused)


def test_a_folder_that_takes_no_baseline_is_found_before_the_first_launch(fresh):
    """The message names it, and nothing is measured in vain."""
    refused = fresh.gate("--slmperf-accept", "--slmperf-baselines=/proc/baselines")
    assert refused.ret == pytest.ExitCode.TESTS_FAILED
    refused.stdout.fnmatch_lines(["*/proc/baselines: no baseline can be stored there: /proc: *"])
    assert "launch 1" not in refused.stdout.str()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_found_before_the_first_launch(fresh):
    """The same of a folder that belongs to somebody else."""
    folder = fresh.path / "locked"
    folder.mkdir(mode=0o500)
    refused = fresh.gate("--slmperf-accept", f"--slmperf-baselines={folder / 'baselines'}")
    refused.stdout.fnmatch_lines([f"*no baseline can be stored there: {folder}: *"])


def test_what_was_kept_goes_once_a_newer_recording_of_it_is_stored(fresh, kept):
    """Accepting it later would put an older measurement in force; what isn't recorded elsewhere stays."""
    for others in (["-k", "batch16"], ["--slmperf-baselines=others"]):
        recorded = fresh.gate("--slmperf-accept", *others, keep=("cacheprovider",))
        assert recorded.ret == pytest.ExitCode.OK
        assert kept.exists(), others
    fresh.gate("--slmperf-accept", keep=("cacheprovider",)).assert_outcomes(passed=1, skipped=4)
    assert not kept.exists()


def test_each_suite_that_was_refused_is_kept(fresh):
    """One takes nothing from another, and each is named."""
    fresh.write("test_other.py", SUITE.replace('"decode"', '"other"'))
    both = fresh.gate("--slmperf-accept", engine=NOISY, keep=("cacheprovider",))
    names = ["fake-decode.json", "fake-other.json"]
    assert sorted(path.name for path in _all_kept(fresh)) == names
    assert all(f"slmperf baselines accept {path} --tolerance=supported" in prose(both) for path in _all_kept(fresh))
    fresh.gate("--slmperf-accept", "test_other.py", keep=("cacheprovider",)).assert_outcomes(passed=1, skipped=4)
    assert [path.name for path in _all_kept(fresh)] == names[:1]


def _kept(project):
    """The one recording that was kept."""
    (kept,) = _all_kept(project)
    return kept


def _all_kept(project):
    return sorted(project.path.glob(".pytest_cache/d/slmperf/unrecorded/*/*/*/*.json"))


def test_what_is_in_force_from_the_future_is_found_before_the_first_launch(project):
    """A recording now would be the older one, and refused after all its launches."""
    text = project.baseline().read_text()
    project.baseline().write_text(re.sub(r'"recorded": "20\d\d', '"recorded": "2099', text))
    refused = project.gate("--slmperf-accept", keep=("cacheprovider",))
    assert refused.ret == pytest.ExitCode.TESTS_FAILED
    assert "nothing can be recorded: decode/opt-125m/batch=1 was recorded 2099-" in prose(refused)
    assert "launch 1" not in refused.stdout.str()


def test_what_became_older_meanwhile_is_kept_with_the_option_that_takes_it(project):
    """Another run recorded while this one measured: which of the two is to be in force, somebody says."""
    later = """file.write_text(file.read_text().replace('"recorded": "20', '"recorded": "21'))"""
    late = f"\ndef test_later(decode):\n    file = pathlib.Path({BASELINE!r})\n    {later}\n"
    project.write("test_suite.py", f"import pathlib\n{SUITE}{late}")
    refused = project.gate("--slmperf-accept", keep=("cacheprovider",))
    assert refused.ret == pytest.ExitCode.TESTS_FAILED
    assert f"as it is, once the problem is mended: slmperf baselines accept {_kept(project)} --older" in prose(refused)
    _accept(project, str(_kept(project)), "--older")


def test_a_budget_that_a_recording_is_too_long_for_is_named(fresh):
    """The launches are too few for want of time, and not of --slmperf-accept."""
    refused = fresh.gate("--slmperf-accept", "--slmperf-budget=0.00001")
    assert refused.ret == pytest.ExitCode.TESTS_FAILED
    assert "the budget was spent meanwhile: give it a larger one, or none" in prose(refused)


@pytest.mark.parametrize("damage", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["pipe", "device"])
def test_a_kept_recording_that_never_ends_is_not_waited_for(fresh, kept, damage):
    """Whatever lies there: the run says what becomes of its own."""
    kept.unlink()
    damage(kept)
    fresh.gate("--slmperf-accept", keep=("cacheprovider",)).assert_outcomes(passed=1, skipped=4)


def test_workers_say_that_a_recording_is_kept(fresh):
    """The session that has the cache is not the one that measured."""
    refused = fresh.apart("--slmperf-accept", "-n2", engine=NOISY, keep=("cacheprovider", "xdist"))
    assert "what was measured of fake-decode is kept" in " ".join(refused.split())
