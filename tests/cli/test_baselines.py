"""`slmperf baselines`, from the command line to the files and back."""

import math
import random
import re
import subprocess
import sys
from contextlib import chdir
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_slmperf.cli import main
from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.machine import Machine
from pytest_slmperf.core.metrics import metric
from pytest_slmperf.core.outcome import CaseOutcome, RunOutcome, SweepOutcome
from pytest_slmperf.core.sample import Measurement, Sample
from pytest_slmperf.core.verdict import Status, Verdict
from pytest_slmperf.report import document
from pytest_slmperf.run.store import BaselineStore

MACHINE = Machine("NVIDIA H100", "580.65", {"cores": 16})
KEY = {"engine": "ctranslate2", "engine_version": "4.8.5", "model": "opt-125m", "dtype": "float32", "device": "cpu"}
SMALL, LARGE = "decode/opt-125m/batch=1", "decode/opt-125m/batch=64"


def case(name, *, median=4000.0, spread=0.002, launches=20, tolerance=0.03, seed=0, **changes):
    draw = random.Random(seed)
    sample = Sample.of([[median * math.exp(draw.gauss(0, spread))] * 3 for _ in range(launches)])
    measured = Measurement(name, KEY, {"output_throughput": sample})
    meaning = metric("output_throughput")
    verdict = Verdict(Status.UNMEASURED, meaning.name, meaning.unit, True, name, tolerance, judged=False)
    coordinates = {"model": "opt-125m", "batch_size": int(name.rpartition("=")[2])}
    return CaseOutcome(name, coordinates, replace(measured, **changes), None, {meaning.name: verdict})


def run(*cases, complete=True, whole=True, tier="gate", problems=(), asked=0.03, machine=MACHINE, **fields):
    sweep = SweepOutcome(
        sweep="decode",
        design="stored",
        mode="accept",
        cases={one.case: one for one in cases},
        specs=(EngineSpec("ctranslate2", "opt-125m"),),
        versions={"python": "3.12.1", "ctranslate2": "4.8.5"},
        baseline_versions=None,
        launches=20,
        seconds=60.0,
        asked={"output_throughput": asked} if asked else {},
        **fields,
    )
    return RunOutcome(
        machine,
        (sweep,),
        "2026-01-01T00:00:00+00:00",
        61.0,
        "0123456789abcdef",
        complete,
        problems,
        whole=whole,
        tier=tier,
    )


@pytest.fixture(autouse=True)
def project(tmp_path):
    """Every command runs in a project of its own."""
    with chdir(tmp_path):
        yield tmp_path


@pytest.fixture
def baselines(capsys):
    def command(*words):
        """Exit code, and what was printed where."""
        try:
            code = main(["baselines", *map(str, words)])
        except SystemExit as ended:
            code = ended.code
        printed = capsys.readouterr()
        return code, printed.out or printed.err

    return command


@pytest.fixture
def report(project):
    def write(outcome):
        path = project / "report.json"
        path.write_text(document.text(outcome))
        return path

    return write


def stored():
    (one,) = BaselineStore(Path("baselines")).files()
    return one.file


def test_accept_stores_every_gated_case(baselines, report):
    """A report of another machine becomes that machine's baseline, with when and at which commit it was measured."""
    code, said = baselines("accept", report(run(case(SMALL), case(LARGE))))
    assert code == 0
    assert [line.split(" ")[:2] for line in said.splitlines()] == [["new:", SMALL], ["new:", LARGE]]
    assert "(20×3 launches×rounds, tolerance 3.0%)" in said
    point = stored().cases[SMALL].current
    assert (point.recorded, point.commit) == ("2026-01-01T00:00:00+00:00", "0123456789abcdef")
    assert point.versions["ctranslate2"] == "4.8.5"
    assert stored().machine == MACHINE


def test_accept_again_says_what_moved(baselines, report):
    """A second recording shows the old median, the new one and the change."""
    baselines("accept", report(run(case(SMALL))))
    code, said = baselines("accept", report(run(case(SMALL, median=4400.0))))
    assert code == 0
    assert said.startswith(f"moved: {SMALL} output_throughput ")
    assert "(+10.0%, better; 20×3 → 20×3 launches×rounds)" in said


def test_accept_of_an_older_report_is_refused_unless_it_is_meant(baselines, report):
    """A report from before what is in force names both dates and stores nothing; `--older` takes it."""
    newer = replace(run(case(SMALL)), started_at="2026-01-02T00:00:00+00:00")
    older = replace(run(case(SMALL, median=4400.0)), started_at="2026-01-01T23:30:00-00:00")
    baselines("accept", report(newer))
    code, said = baselines("accept", report(older))
    assert code == 1
    assert f"{SMALL}: this was recorded {older.started_at}, and what is in force later, {newer.started_at}" in said
    assert len(stored().cases[SMALL].points) == 1
    code, said = baselines("accept", report(older), "--older")
    assert (code, said.startswith(f"moved: {SMALL} ")) == (0, True), said
    assert stored().cases[SMALL].current.recorded == older.started_at


def test_accept_takes_what_the_run_itself_refused(baselines, report):
    """That a run could not store a case on its own terms doesn't keep others from being taken out of its report."""
    refused = ("nothing is recorded:\nanother case",)
    assert baselines("accept", report(run(case(SMALL), case(LARGE, spread=0.5), problems=refused)), SMALL)[0] == 0


def test_accept_takes_only_the_cases_that_are_named(baselines, report):
    """Other cases of the report are left out, also where they could not be accepted."""
    assert baselines("accept", report(run(case(SMALL), case(LARGE, void="throttled"))), SMALL)[0] == 0
    assert set(stored().cases) == {SMALL}


@pytest.mark.parametrize(
    ("outcome", "message"),
    [
        (
            run(case(SMALL), case(LARGE, launches=16)),
            f"{LARGE} output_throughput: 16 launches; a baseline needs at least 20",
        ),
        (run(case(SMALL), case(LARGE, void="throttled")), f"{LARGE}: void: throttled"),
        (run(case(SMALL), case(LARGE, samples={})), f"{LARGE} output_throughput: unmeasured: no launch measured it"),
        (
            run(case(LARGE, key={**KEY, "planted_loss": 0.2})),
            f"{LARGE}: measured with a loss planted on purpose (planted_loss=0.2); it can't be recorded",
        ),
        (
            run(case(SMALL), case(LARGE, spread=0.5)),
            f"{LARGE} output_throughput: its noise leaves even a tolerance of 15%",
        ),
        (run(case(LARGE), tier="quick"), "a run with --slmperf-tier=quick is a glance"),
        (run(case(LARGE), complete=False, problems=("decode: the engine died",)), "not whole\ndecode: the engine died"),
        (
            run(case(SMALL), replace(case(LARGE), measurement=replace(case(LARGE).measurement, key={"device": "tpu"}))),
            f"{LARGE}: this version knows nothing of the device tpu",
        ),
        (
            run(
                case(SMALL), replace(case(LARGE), measurement=replace(case(LARGE).measurement, key={"device": "cuda"}))
            ),
            f"{LARGE}: the engine ran on cuda, and was taken for one on {MACHINE.device}: say where it runs",
        ),
        (run(case(LARGE), asked=None), "no gated case was measured"),
    ],
)
def test_accept_refuses_all_or_nothing(baselines, report, outcome, message):
    """What no gate may rest on is refused with its reason, and nothing at all is stored."""
    code, said = baselines("accept", report(outcome))
    assert code == 1
    assert "nothing is recorded" in said
    assert message in said
    assert not Path("baselines").exists()


def test_accept_refuses_a_tolerance_that_the_noise_does_not_support(baselines, report):
    """The smallest tolerance that is supported is named, with the line to write."""
    code, said = baselines("accept", report(run(case(SMALL, spread=0.02), asked=0.01)))
    assert code == 1
    assert "and 1.0% is asked for: write gate={'output_throughput': 0." in said


def test_accept_stores_the_tolerance_of_the_suite(baselines, report):
    """The tolerance that a verdict was judged by may be an older, larger one; what the suite asks for is stored."""
    assert baselines("accept", report(run(case(SMALL, tolerance=0.12), asked=0.04)))[0] == 0
    assert stored().cases[SMALL].current.metrics["output_throughput"].tolerance == 0.04
    code, said = baselines("accept", report(run(case(SMALL, spread=0.02, tolerance=0.15), asked=0.04)))
    assert (code, "and 4.0% is asked for: write gate=" in said) == (1, True), said


@pytest.mark.parametrize("way", ["option", "setting"])
def test_accept_takes_the_supported_tolerance_when_asked_to(baselines, report, project, way):
    """On the command line or in the project's settings, the tolerance may be what the noise supports."""
    words = ["--tolerance", "supported"]
    if way == "setting":
        (project / "pyproject.toml").write_text('[tool.slmperf]\ntolerance = "supported"\n')
        words = []
    assert baselines("accept", report(run(case(SMALL, spread=0.02), asked=0.01)), *words)[0] == 0
    assert 0.01 < stored().cases[SMALL].current.metrics["output_throughput"].tolerance <= 0.15


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        (None, 4, "report.json: No such file or directory"),
        ("", 1, "report.json: no JSON report: "),
        ('{"a": NaN}', 1, "NaN is no JSON"),
        ("[]", 1, "report.json: no JSON report: $: [] is not of type"),
        ('{"format": "slmperf-report", "version": 99}', 1, "report.json: this report has version 99"),
        ('{"format": "slmperf-report", "version": 1}', 1, 'report.json: no JSON report: $: "machine" is a required'),
    ],
)
def test_a_report_that_is_none_is_refused(baselines, project, content, code, message):
    """A missing report is wrong usage; one that can't be understood is named with the place."""
    if content is not None:
        (project / "report.json").write_text(content)
    found, said = baselines("accept", "report.json")
    assert (found, message in said) == (code, True), said


def test_accept_of_an_unknown_case_is_wrong_usage(baselines, report):
    """A case that the report doesn't hold is named, with those that it holds."""
    code, said = baselines("accept", report(run(case(SMALL))), "decode/opt-125m/batch=2")
    assert code == 4
    assert f"not measured: decode/opt-125m/batch=2; measured were {SMALL}" in said


def test_retire_falls_back_and_says_so(baselines, report):
    """The recording in force is retired with its reason, and the gate compares with the one before."""
    baselines("accept", report(run(case(SMALL))))
    baselines("accept", report(run(case(SMALL, median=4400.0))))
    code, said = baselines("retire", SMALL, "--reason", "the fan was broken")
    assert code == 0
    assert said.startswith(
        f"retired: {SMALL}: the recording in force in baselines/nvidia-h100/580.65/ctranslate2-decode.json"
    )
    assert "(-9.1%, worse" in said
    assert [bool(point.retired) for point in stored().cases[SMALL].points] == [False, True]


def test_a_matrix_says_where_nothing_is_in_force(baselines, report):
    """Of a driver whose every recording is retired there is no number and no date."""
    baselines("accept", report(run(case(SMALL))))
    baselines("retire", SMALL, "--reason", "the fan was broken")
    code, said = baselines("matrix")
    assert (code, "none in force" in said, "0," in said) == (0, True, False)


def test_retire_an_older_recording(baselines, report):
    """A recording that isn't in force can be retired by its number; the gate goes on as before."""
    baselines("accept", report(run(case(SMALL))))
    baselines("accept", report(run(case(SMALL, median=4400.0))))
    code, said = baselines("retire", SMALL, "--reason", "wrong clocks", "--point", 1)
    assert code == 0
    assert said.splitlines()[-1] == "the gate still compares with the same recording"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((SMALL,), 4, "the following arguments are required: --reason"),
        ((SMALL, "--reason", " "), 4, "--reason is empty"),
        (("decode/other", "--reason", "x"), 4, "nothing is stored for decode/other"),
        ((SMALL, "--reason", "x", "--point", "7"), 4, "has no recording 7"),
        ((SMALL, "--reason", "x", "--driver", "590"), 4, "nothing is stored for"),
    ],
)
def test_retire_needs_a_reason_and_something_to_retire(baselines, report, words, code, message):
    """Wrong words are wrong usage, and change nothing."""
    baselines("accept", report(run(case(SMALL))))
    found, said = baselines("retire", *words)
    assert (found, message in said) == (code, True), said
    assert not stored().cases[SMALL].points[0].retired


def test_retire_where_several_machines_have_the_case(baselines, report):
    """An ambiguous case names its files, and an option chooses."""
    baselines("accept", report(run(case(SMALL))))
    baselines("accept", report(run(case(SMALL), machine=replace(MACHINE, driver="590.10"))))
    code, said = baselines("retire", SMALL, "--reason", "x")
    assert code == 4
    assert "580.65/ctranslate2-decode.json, " in said
    assert "choose with --device, --driver or --engine" in said
    assert baselines("retire", SMALL, "--reason", "x", "--driver", "590")[0] == 0


def test_list_shows_every_case(baselines, report):
    """A line for each case: where it holds, since when, how many recordings, what is gated."""
    assert baselines("list") == (0, "nothing is stored in baselines\n")
    middle = SMALL.replace("=1", "=8")
    baselines("accept", report(run(case(SMALL), case(LARGE), case(middle))))
    baselines("retire", LARGE, "--reason", "x")
    code, said = baselines("list")
    lines = [line.split("  ") for line in said.splitlines()]
    assert code == 0
    assert [line[0].strip() for line in lines[2:]] == [SMALL, middle, LARGE]
    assert "2026-01-01T00:00:00+00:00" in said
    assert "all retired" in said
    assert baselines("list", "--engine", "vllm") == (0, "nothing is stored in baselines with 'vllm' in its engine\n")


def test_an_unknown_case_names_the_folder_and_the_list(baselines):
    """A command that is named can be copied: the folder that was asked for is in it, quoted."""
    Path("my base").mkdir()
    code, said = baselines("show", SMALL, "--baselines", "my base")
    assert code == 4
    assert f"nothing is stored for {SMALL} in my base: `slmperf baselines list '--baselines=my base'` names" in said


@pytest.mark.parametrize("verb", [("list",), ("show", SMALL), ("matrix",), ("retire", SMALL, "--reason=x")])
@pytest.mark.parametrize(
    ("folder", "said"),
    [
        ("nowhere", "nowhere: there is no such folder"),
        ("file", "file: it is no folder of baselines"),
        ("file/below", "file/below: Not a directory"),
    ],
)
def test_a_folder_that_is_named_must_be_there(baselines, verb, folder, said):
    """Nothing is found in a folder that was mistyped, and that is no answer."""
    Path("file").touch()
    code, told = baselines(*verb, f"--baselines={folder}")
    assert (code, told) == (4, f"slmperf: {said}\n")


@pytest.mark.parametrize(
    ("what", "instead", "said"),
    [
        (r"(?<=\[\[)[0-9.]+", "1" + "0" * 400, "[0][0]: a whole number beyond 1e308 is none to count with"),
        (r"(?<=\[\[)[0-9.]+", "1e9999", "[0][0]: inf is no finite number"),
        (r"(?<=\[\[)[0-9.]+", "1e-310", "launch 0 has the value 1e-310; values are positive, 1e-100 to 1e+100"),
        ("NVIDIA H100", r"\\ud83d", r"$.machine.device: '\ud83d' is no character"),
        ("NVIDIA H100", '", "x": ' + "[" * 300 + "]" * 300 + ', "y": "', "$: "),
    ],
    ids=["a huge number", "infinity", "a tiny number", "half a character", "too deep"],
)
def test_a_report_with_what_nothing_can_hold(baselines, report, what, instead, said):
    """JSON can spell what nobody can count with, show or store: it is told with the file."""
    path = report(run(case(SMALL)))
    path.write_text(re.sub(what, instead, path.read_text(), count=1))
    code, told = baselines("accept", path)
    assert code == 1
    assert told.startswith(f"slmperf: {path}: ")
    assert said in told


def test_a_reason_that_is_no_text_is_refused(baselines, report):
    """Bytes that are no UTF-8 would be stored by no verb, and are refused before any runs."""
    baselines("accept", report(run(case(SMALL))))
    code, said = baselines("retire", SMALL, "--reason", "broken \udcff fan")
    assert (code, "'broken \\udcff fan': '\\udcff' is no character" in said) == (4, True), said
    assert stored().cases[SMALL].current


def test_show_has_the_key_and_every_recording(baselines, report):
    """One case in full: the key's fields, a line for each recording and metric, and why one was retired."""
    baselines("accept", report(run(case(SMALL))))
    baselines("accept", report(run(case(SMALL, median=4400.0))))
    baselines("retire", SMALL, "--reason", "the fan was broken", "--point", 1)
    code, said = baselines("show", SMALL)
    assert code == 0
    assert "  dtype: float32\n" in said
    assert "0123456789ab " in said
    rows = [line.split() for line in said.splitlines() if "output_throughput" in line]
    assert [(row[0], row[-1]) for row in rows] == [("1", "retired"), ("2", "force")]
    assert "the fan was broken" in said.splitlines()[-1]
    assert baselines("show", LARGE)[0] == 4


def test_prune_removes_what_no_suite_measures(baselines, report):
    """Cases of the report's suites that it doesn't know go; skipped and unselected ones stay."""
    names = [f"decode/opt-125m/batch={size}" for size in (1, 2, 4, 8)]
    baselines("accept", report(run(*map(case, names))))
    code, said = baselines(
        "prune", report(run(case(names[0]), skipped={names[1]: "too large"}, unselected=(names[2],)))
    )
    assert code == 0
    assert said.startswith(f"gone: {names[3]} output_throughput ")
    assert set(stored().cases) == set(names[:3])
    assert baselines("prune", report(run(*map(case, names[:3]))))[1] == "nothing changed\n"


def test_prune_removes_what_another_engine_measures_now(baselines, report):
    """A model that moved to another engine leaves the file of the first, although the sweep still uses both."""
    moved = "decode/opt-350m/batch=1"
    models = {SMALL: "opt-125m", moved: "opt-350m"}

    def on(engine):
        outcome = run(case(SMALL), replace(case(moved), coordinates={"model": models[moved], "batch_size": 1}))
        specs = (EngineSpec("ctranslate2", models[SMALL]), EngineSpec(engine, models[moved]))
        return report(replace(outcome, sweeps=(replace(outcome.sweeps[0], specs=specs),)))

    baselines("accept", on("ctranslate2"))
    assert baselines("prune", on("ctranslate2"))[1] == "nothing changed\n"
    assert baselines("prune", on("transformers"))[1].startswith(f"gone: {moved} ")
    assert set(stored().cases) == {SMALL}


def test_prune_keeps_a_suite_that_the_report_does_not_know(baselines, report):
    """A suite that was not run may still exist: its file is named, and stays."""
    baselines("accept", report(run(case(SMALL))))
    other = replace(run(case(SMALL)), sweeps=(replace(run(case(SMALL)).sweeps[0], sweep="prefill"),))
    code, said = baselines("prune", report(other))
    assert code == 0
    assert "kept: baselines/nvidia-h100/580.65/ctranslate2-decode.json" in said
    assert set(stored().cases) == {SMALL}


@pytest.mark.parametrize(
    ("part", "why"),
    [({"complete": False}, "was interrupted or failed"), ({"whole": False}, "only a part of the suites")],
)
def test_prune_by_a_part_of_the_suites_is_wrong_usage(baselines, report, part, why):
    """A run that was interrupted or selected by -k doesn't know every case: it is refused, with the run that does."""
    baselines("accept", report(run(case(SMALL))))
    code, said = baselines("prune", report(run(case(LARGE), **part)))
    assert (code, why in said) == (4, True), said
    assert "Run all of the suites: pytest --slmperf --slmperf-report=" in said
    assert set(stored().cases) == {SMALL}


def test_baselines_lie_where_the_project_says(baselines, report, project):
    """The folder is an option, or else a setting of the project."""
    (project / "pyproject.toml").write_text('[tool.slmperf]\nbaselines = "stored"\n')
    baselines("accept", report(run(case(SMALL))))
    assert list(Path("stored").rglob("*.json"))
    baselines("accept", report(run(case(SMALL))), "--baselines", "other")
    assert list(Path("other").rglob("*.json"))


def test_a_damaged_file_is_told(baselines, report):
    """What can't be read ends a verb with 1, naming the file and the way out."""
    baselines("accept", report(run(case(SMALL))))
    path = Path("baselines/nvidia-h100/580.65/ctranslate2-decode.json")
    path.write_text("{")
    for words in (["list"], ["show", SMALL], ["retire", SMALL, "--reason", "x"], ["accept", "report.json"]):
        code, said = baselines(*words)
        assert code == 1
        assert "git checkout -- " in said
    assert path.read_text() == "{"


@pytest.mark.parametrize("words", [(), ("burn",), ("accept",), ("show",)])
def test_wrong_usage_exits_as_pytest_does(baselines, words):
    """Missing and unknown words exit with 4, not with argparse's 2."""
    code, said = baselines(*words)
    assert (code, "usage: slmperf baselines" in said) == (4, True)


def test_the_command_itself(project):
    """The installed command runs as a program."""
    command = [
        sys.executable,
        "-c",
        "import sys; from pytest_slmperf.cli import main; sys.exit(main())",
        "baselines",
        "list",
    ]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "nothing is stored in baselines\n", "")
