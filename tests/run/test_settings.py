"""Reading `[tool.slmperf]`."""

import pytest

from pytest_slmperf.core.errors import UsageError
from pytest_slmperf.core.machine import Machine
from pytest_slmperf.core.sweeps.sweep import Sweep
from pytest_slmperf.core.sweeps.workload import StaticBatch
from pytest_slmperf.run.settings import Settings, read_settings, settings_of

LAPTOP = Machine("Some CPU 4c", "linux-6.1", {"cores": 4, "memory_gib": 16})


def settings_from(tmp_path, text):
    (tmp_path / "pyproject.toml").write_text(text)
    return read_settings(tmp_path)


def test_without_a_table_the_defaults_hold(tmp_path):
    """A project needs no settings, and no pyproject.toml."""
    assert read_settings(tmp_path) == Settings()
    assert settings_from(tmp_path, "[project]\nname = 'x'\n") == Settings()


def test_the_first_machine_that_matches_decides(tmp_path):
    """What a suite sweeps is looked up by the machine, first match first."""
    settings = settings_from(
        tmp_path,
        """
        [[tool.slmperf.machine]]
        when = { device = "nvidia" }
        sweep.decode = { model = ["opt-1.3b"] }
        [[tool.slmperf.machine]]
        when = { cores_at_most = 4, memory_gib_at_least = 8 }
        sweep.decode = { model = ["tiny-2x128"], batch_size = [1, 2] }
        [[tool.slmperf.machine]]
        sweep.decode = { model = ["opt-125m"] }
        """,
    )
    assert settings.sweep_on("decode", LAPTOP) == {"model": ["tiny-2x128"], "batch_size": [1, 2]}
    assert settings.sweep_on("other", LAPTOP) == {}
    server = Machine("Some CPU 64c", "linux-6.1", {"cores": 64, "memory_gib": 256})
    assert settings.sweep_on("decode", server) == {"model": ["opt-125m"]}
    assert settings.where_on("decode", server) == "[tool.slmperf] machine[2] sweep.decode"
    assert settings.sweep_on("decode", Machine("NVIDIA H100", "580.65")) == {"model": ["opt-1.3b"]}


def test_every_axis_and_the_limits_of_a_sweep_can_be_set():
    """Concurrencies are whole, rates and speeds are numbers, and limits have the names of an Slo."""
    sweep = {"concurrency": [1, 8], "request_rate": [0.5, 2], "speed": [1], "slo": {"ttft_ms": 500}}
    assert settings_of({"machine": [{"sweep": {"serve": sweep}}]}, "here").sweep_on("serve", LAPTOP) == sweep
    for field, value in {"concurrency": [1.5], "request_rate": 2, "speed": ["1"], "slo": {"ttft": 500}}.items():
        with pytest.raises(UsageError, match=f"sweep.serve: {field} = "):
            settings_of({"machine": [{"sweep": {"serve": {field: value}}}]}, "here")


def test_sweeps_that_nobody_declares_are_told_apart():
    """By whether their table holds on this machine, and by whether they look like a slip."""
    machines = [{"when": {"device": "H100"}, "sweep": {"gpu": {}, "decoed": {}}}, {"sweep": {"decode": {}, "cpu": {}}}]
    found = settings_of({"machine": machines}, "here").undeclared({"decode", "prefill"}, LAPTOP)
    assert [(one.line.partition(" sets ")[2], one.holds, one.close) for one in found] == [
        ("sweep.decoed, and no suite here declares it; did you mean 'decode'?", False, True),
        ("sweep.gpu, and no suite here declares it; there are decode, prefill", False, False),
        ("sweep.cpu, and no suite here declares it; there are decode, prefill", True, False),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[tool.slmperf]\nruonds = 3", "did you mean 'rounds'"),
        ("[tool.slmperf]\nrounds = 0", "whole number of at least 1"),
        ("[tool.slmperf]\nrounds = 2.5", "whole number"),
        ("[tool.slmperf]\nround_s = true", "a number of at least"),
        ("[tool.slmperf]\nwindow_s = 0.05", "a number of at least 0.1"),
        ("[tool.slmperf]\nlead_in_s = -1", "a number of at least 0"),
        ("[tool.slmperf]\nsensor_seen_s = 0", "a number of at least 0.001"),
        ("[tool.slmperf]\nbaseline_launches = 19", "at least 20"),
        ("[tool.slmperf]\ntolerance = 'any'", "'asked' or 'supported'"),
        ("[tool.slmperf]\nmissing_meter = 'green'", "'red' or 'skip'"),
        ("[[tool.slmperf.machine]]\nsweep.decode = { missing_meter = true }", "'red' or 'skip'"),
        ("[tool.slmperf]\nengine = 3", "takes a text"),
        ("[tool.slmperf]\nmachine = 3", "array of tables"),
        ("[[tool.slmperf.machine]]\nwhen = { gpu = true }", "unknown field 'gpu'"),
        ("[[tool.slmperf.machine]]\nwhen = { device = 3 }", "takes a text"),
        ("[[tool.slmperf.machine]]\nsweep.decode = { batchsize = [1] }", "did you mean 'batch_size'"),
        ("[[tool.slmperf.machine]]\nsweep.decode = { batch_size = 3 }", "a list of whole numbers"),
        ("[[tool.slmperf.machine]]\nsweep.decode = { gate = 3 }", "a table of tolerances"),
        ("[[tool.slmperf.machine]]\nsweep.decode = { replicas = 2 }", "a list of whole numbers"),
        ("[[tool.slmperf.machine]]\nsweep.decode = { dtype = 'int8' }", "a list of names"),
        ("[[tool.slmperf.machine]]\nsweep.decode = { options = { chunked = true } }", "a table of lists"),
        ("[tool.slmperf]\nround_s = nan", "a number of at least"),
        ("[tool.slmperf]\nanswer_limit_s = inf", "a number of at least"),
        ('[tool.slmperf]\nengine = "fake:level"', "engine: 'level' is not KEY=VALUE"),
        ('[tool.slmperf]\nengine = "fake:level=inf"', "engine fake:level=inf: level: "),
        ('[tool.slmperf]\nengine = "fake:slowed=0.2"', "a loss is planted from the command line"),
        ("[tool.slmperf]\nengine_options = {}", "unknown field 'engine_options'"),
        ("[tool.slmperf]\nmax_launches = 100000000000", "at most 200"),
        ("[tool.slmperf]\nbaseline_launches = 201", "at most 200"),
        ("[tool.slmperf]\nrounds = 100000000000000000000", "at most 1000"),
        ("[tool.slmperf]\nlock_wait_s = 1e300", "at most 604800"),
        ('[tool.slmperf]\nbaselines = "a\\u0000b"', "a text, without control characters"),
        ('[tool.slmperf]\nsuites = "suites"', "suites = 'suites'; it takes a list of folders"),
        ('[tool.slmperf]\nsuites = [""]', "it takes a list of folders"),
        ('[tool.slmperf]\nsuites = ["gone"]', "suites = 'gone': there is no folder"),
        ("[[tool.slmperf.machine]]\nwhen = { cores_at_least = nan }", "takes a number"),
        ("[[tool.slmperf.machine]]\nsweep.decode = { gate = [1, [2]] }", "a list of metrics"),
        ("[[tool.slmperf.machine]]\nsweep.decode = { gate = { ttft_ms = nan } }", "a table of tolerances"),
        ("[[tool.slmperf.machine]]\nsweep.decode = { percentiles = [nan, true] }", "a list of numbers"),
        ("[[tool.slmperf.machine]]\nsweep.decode = { batch_size = [1, 2.5] }", "a list of whole numbers"),
        ("[[tool.slmperf.machine]]\nsweep.decode = { model = ['a', 3] }", "a list of names"),
        ("[[tool.slmperf.machine]]\nsweep.decode = { prompt_tokens = true }", "a whole number"),
        pytest.param(f"[tool.slmperf]\nrounds = {'9' * 5000}", "digits", id="too many digits"),
        ("[tool]\nslmperf = 3", "is a table"),
        ("tool = 3", "is a table"),
        ("[tool.slmperf", "pyproject.toml"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, said):
    """An error names the file, the field and what it takes."""
    with pytest.raises(UsageError, match=said) as error:
        settings_from(tmp_path, text)
    assert "pyproject.toml" in str(error.value)


def test_settings_keep_what_is_given():
    """Values arrive as they were set, whole numbers where a float is meant too."""
    given = {"round_s": 1, "threads": 2, "tolerance": "supported", "sensor_seen_s": 0.025}
    settings = settings_of(given, "here")
    assert {name: getattr(settings, name) for name in given} == given


@pytest.mark.parametrize(
    ("of_sweep", "of_project", "fields", "said"),
    [
        (None, None, {}, "skip"),
        (None, None, {"gpu_uuid": "GPU-1"}, "red"),
        (None, "skip", {"gpu_uuid": "GPU-1"}, "skip"),
        (None, "red", {}, "red"),
        ("skip", "red", {}, "skip"),
    ],
)
def test_a_missing_meter_is_red_on_a_gpu_unless_project_or_suite_say_otherwise(of_sweep, of_project, fields, said):
    """The suite's word counts before the project's, and both before the default of the machine's kind."""
    sweep = Sweep("power", StaticBatch(8, 8), batch_size=[1], missing_meter=of_sweep)
    assert Settings(missing_meter=of_project).without_meter(sweep, Machine("Some device", "1", fields)) == said
