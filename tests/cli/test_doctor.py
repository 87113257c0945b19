"""`slmperf doctor`: from the command line, with an exit code and a document that a pipeline can act on."""

import json
import os
import subprocess
import sys
from importlib.resources import files

import jsonschema_rs
import nvml_standin
import pytest

from pytest_slmperf.cli import main
from pytest_slmperf.core.fitness.diagnosis import Diagnosis, Grade, Line
from pytest_slmperf.core.machine import Machine
from pytest_slmperf.report import doctor as rendered

SCHEMA = json.loads((files("pytest_slmperf") / "schemas" / "doctor.json").read_text(encoding="utf-8"))
VALID = jsonschema_rs.validator_for(SCHEMA)
MACHINE = Machine("A CPU, 8 cores", "linux-6.1", {"cores": 8, "smt": None, "memory_gib": 62.5})


@pytest.fixture
def doctor(tmp_path):
    """Runs the verb in an empty project on the stand-in driver. Returns the exit code and what was printed where."""

    def run(*words, scenario=("power 0 70",)):
        try:
            statements = nvml_standin.write_scenario(tmp_path / "scenario", scenario)
            environment = {**os.environ, **nvml_standin.environment(statements)}
        except nvml_standin.NoCompiler as error:
            pytest.skip(str(error))
        pytest.importorskip("pynvml")
        program = "import sys; from pytest_slmperf.cli import main; sys.exit(main(sys.argv[1:]))"
        done = subprocess.run(
            [sys.executable, "-c", program, "doctor", *words],
            cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8", timeout=120, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    return run


def test_one_line_for_each_thing_and_the_verdict_last(doctor):
    """Grade, topic, what was found, and what to do after an arrow; the exit code says what the last line says."""
    code, out, err = doctor("--seconds=1.5", "--engine=fake:launch_noise=0.002,seed=1")
    *lines, empty, verdict = out.splitlines()
    assert empty == ""
    assert all(line.startswith(tuple(f"{grade:<8}  " for grade in Grade)) for line in lines)
    topics = [line[10:].partition("  ")[0] for line in lines]
    assert {"cpu", "cpu load", "gpu", "meter", "gpu throttling", "engines", "baselines"} <= set(topics)
    assert "noise of output_throughput" in topics
    assert "→ record them: pytest --slmperf --slmperf-accept" in out
    assert verdict.startswith("not fit to gate on: " if code else "fit to gate on (")
    assert code == int(any(line.startswith("blocks") for line in lines))
    assert "launching fake tiny-2x128 again and again for 1.5 s" in err


def test_what_blocks_ends_with_1_and_json_keeps_the_schema(doctor):
    """A foreign process on the board: red, in a document that machines read; 0 seconds leave the noise out."""
    code, out, _ = doctor(
        "--json", "--seconds=0", "--engine=fake", scenario=["process 4321 0 - compute 512 train.py", "mig 0"]
    )
    told = json.loads(out)
    VALID.validate(told)
    assert (code, told["fit"]) == (1, False)
    assert told["machine"]["device"] == "simulated"
    (line,) = [line for line in told["lines"] if line["topic"] == "gpu processes"]
    assert line["grade"] == "blocks"
    assert "train.py (pid 4321)" in line["said"]
    assert not [line for line in told["lines"] if line["topic"].startswith("noise")]


def test_what_the_client_can_send_is_a_line(doctor, tmp_path):
    """By a server that takes no time: a figure, or on a busy machine why there is none; it blocks nothing."""
    pytest.importorskip("aiohttp")
    (tmp_path / "pyproject.toml").write_text("[tool.slmperf]\nlock_wait_s = 1\n")
    _, out, err = doctor("--json", "--seconds=0", "--engine=fake", "--client=0.05")
    told = json.loads(out)
    VALID.validate(told)
    (line,) = [line for line in told["lines"] if line["topic"] == "client"]
    assert line["grade"] in ("ok", "warning") or "is in use by" in line["said"]
    assert ("requests_per_s" in line["values"]) is (line["grade"] != "not seen")
    assert "sending to a server that takes no time" in err


def test_a_driver_that_is_not_loaded_blocks(doctor):
    """The reason of the driver is the line of the GPU."""
    code, out, _ = doctor("--seconds=0", scenario=["init DRIVER_NOT_LOADED"])
    assert code == 1
    assert "the NVIDIA driver is not loaded (DRIVER_NOT_LOADED) → see to it that nvidia-smi works" in out


def test_an_engine_that_is_not_here_blocks_and_is_not_launched(doctor, tmp_path, monkeypatch):
    """Other engines do not stand in for the one that is asked for, and what to install is said."""
    metadata = tmp_path / "gone-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: gone\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text("[slmperf.engines]\ngone = gone_engine:Engine\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    code, out, err = doctor("--engine=gone")
    assert code == 1
    (line,) = (line for line in out.splitlines() if line.startswith("blocks") and "engines" in line)
    assert line.endswith("gone can't be used here → gone_engine cannot be found: reinstall its package")
    assert "launching" not in err


def test_a_gpu_that_the_engine_needs_and_may_not_see_blocks(doctor, monkeypatch):
    """What hides the board is the line; nothing is launched and nothing breaks off."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    code, out, _ = doctor("--seconds=0", "--engine=ctranslate2:device=cuda")
    assert code == 1
    said = 'CUDA_VISIBLE_DEVICES="" hides every GPU → unset it'
    assert said in next(line for line in out.splitlines() if line.startswith("blocks    gpu"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--engine=nonesuch"], "unknown engine 'nonesuch': known are"),
        (["--engine=:level=1"], "it takes NAME or NAME:KEY=VALUE"),
        (["--engine=fake:slowed=2"], "slowed=2: it takes a share"),
        (["--engine=fake:flavour=sweet"], "--engine fake:flavour=sweet: the fake engine has no option flavour"),
        (["--engine=fake:level=fast"], "level='fast'; it takes a number"),
        (["--engine=ctranslate2:device=tpu"], "ctranslate2: device='tpu'; it knows"),
        (["--baselines=nowhere"], "nowhere: there is no such folder"),
        (["--baselines=file"], "file: it is no folder of baselines"),
        (["--seconds=-1"], "'-1': it takes a number of seconds"),
        (["--seconds=inf"], "'inf': it takes"),
        (["--client=0"], "'0': a rate takes some time to be sent"),
        (["--seconds=soon"], "'soon': it takes"),
        (["--verbose"], "unrecognized arguments: --verbose"),
    ],
)
def test_wrong_usage_ends_with_4_and_measures_nothing(tmp_path, monkeypatch, capsys, words, said):
    """Usage is checked before anything is looked at."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    try:
        code = main(["doctor", *words])
    except SystemExit as ended:
        code = ended.code
    printed = capsys.readouterr()
    assert (code, printed.out) == (4, "")
    assert said in printed.err
    assert "looking at" not in printed.err


# -- the renderers


def diagnosis(*grades):
    return Diagnosis(
        MACHINE,
        tuple(Line(f"topic {place}", grade, "said\nin two lines", "do it") for place, grade in enumerate(grades)),
    )


@pytest.mark.parametrize(
    ("grades", "verdict"),
    [
        ([Grade.OK], "fit to gate on (0 warnings, 0 not seen)"),
        ([Grade.WARNING, Grade.NOT_SEEN], "fit to gate on (1 warning, 1 not seen)"),
        ([Grade.BLOCKS, Grade.OK, Grade.BLOCKS], "not fit to gate on: topic 0, topic 2 (0 warnings, 0 not seen)"),
    ],
)
def test_the_last_line_names_what_blocks(grades, verdict):
    """Whoever reads one line reads this one."""
    *lines, _, last = rendered.lines(diagnosis(*grades))
    assert last == verdict
    assert lines[0] == f"{grades[0]:<8}  topic 0  said in two lines → do it"


def test_the_schema_is_a_schema_and_describes_every_field():
    """The published schema is itself valid under draft 2020-12."""
    jsonschema_rs.meta.validate(SCHEMA)
    for definition in [SCHEMA, *SCHEMA["$defs"].values()]:
        for name, field in definition.get("properties", {}).items():
            assert "description" in field or "$ref" in field, name


@pytest.mark.parametrize("missing", ["format", "version", "fit", "machine", "lines"])
def test_the_schema_refuses_what_lacks_a_field(missing):
    """A document without one of the fields that readers rely on is refused."""
    document = json.loads(rendered.text(diagnosis(*Grade)))
    VALID.validate(document)
    del document[missing]
    assert not VALID.is_valid(document)


def test_an_unknown_grade_is_refused():
    """There are four grades."""
    document = rendered.document(diagnosis(Grade.OK))
    document["lines"][0]["grade"] = "maybe"
    assert not VALID.is_valid(document)
