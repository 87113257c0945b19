"""Launches that a GPU machine brought back as lines of JSON are judged offline by the program in benchmarks/."""

import importlib.util
import json
import random
import tarfile
from pathlib import Path

import pytest

from pytest_slmperf.cli import main as slmperf

PROGRAM = Path(__file__).parents[2] / "benchmarks/replay_calls.py"
CASE = "decode/opt-1.3b/batch=64"
ASKED = """
Driver Version                            : 580.65.06
GPU 00000000:19:00.0
    Product Name                          : NVIDIA H100 80GB HBM3
    GPU UUID                              : GPU-5e9e71c0-0000-4000-8000-000000000001
"""


@pytest.fixture(scope="module")
def program():
    """The module, as it is run."""
    spec = importlib.util.spec_from_file_location("replay_calls", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def window(draw, loss, **changed):
    """A result in the format of the launches: throughput scatters by 0.3 %, and power doesn't change with the loss."""
    tok_s = 9000 * (1 - loss) * draw.gauss(1, 0.003)
    energy = {
        "joules": 1200.0,
        "watts": 400.0,
        "throttle_ms": {"sw_power_cap": 3.0, "hw_thermal": 0.0},
        "foreign_pids": [],
    }
    told = {"kind": "window", "shape": "opt-1.3b", "b": 64, "w": 0, "tok_s": tok_s, "j_tok": 400 / tok_s}
    return {**told, "running": 63.9, "preempted": 0, "energy": energy, **changed}


@pytest.fixture
def folder(tmp_path):
    """Writes a folder of results: a launch that primes, and seven of each arm."""

    def write(loss=0.05, spoilt=None, **changed):
        draw, lines = random.Random(1), [{"run": "prime", **window(random.Random(2), 0.5)}]
        for number in range(14):
            planted = (0, loss)[number % 2]
            run = {"run": f"{number + 1:02}-{'0.05' if number % 2 else '0'}", "shape": "opt-1.3b"}
            lines.append({**run, "kind": "engine", "engine": "vllm 0.22.1", "gpu": "NVIDIA H100 80GB HBM3"})
            lines.append({**run, **window(draw, planted, **(changed if number == spoilt else {}))})
            lines.append({**run, "kind": "end", "code": 0})
        (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
        (tmp_path / "machine.log").write_text(ASKED)
        return tmp_path

    return write


def test_a_planted_loss_is_red_in_throughput_and_joules(program, folder, capsys):
    """And `slmperf compare` of the reports that were written says the same."""
    at = folder()
    assert program.main([str(at)]) == 1
    said = capsys.readouterr().out
    assert "2 regressed" in said
    assert slmperf(["compare", str(at / "normal.json"), str(at / "loss.json")]) == 1
    assert "2 regressed" in capsys.readouterr().out
    machine = json.loads((at / "normal.json").read_text())["machine"]
    assert (machine["device"], machine["driver"]) == ("NVIDIA H100 80GB HBM3", "580.65.06")


def test_launches_that_differ_by_noise_are_unchanged(program, folder, capsys):
    """The machine's own words may lie in the packed logs."""
    at = folder(loss=0.0)
    (at / "work").mkdir()
    (at / "machine.log").rename(at / "work/machine.log")
    with tarfile.open(at / "b_logs.tar.gz", "w:gz") as logs:
        logs.add(at / "work", ".")
    assert program.main([str(at)]) == 0
    assert "2 unchanged" in capsys.readouterr().out
    (board,) = json.loads((at / "loss.json").read_text())["sweeps"][0]["cases"][0]["boards"]
    assert board == "GPU-5e9e71c0-0000-4000-8000-000000000001"


@pytest.mark.parametrize(
    ("changed", "guard"),
    [
        ({"preempted": 2}, "preempted"),
        ({"running": 50.0}, "batch"),
        ({"energy": {"foreign_pids": [7]}}, "foreign"),
        ({"energy": {"throttle_ms": {"hw_thermal": 12.0}}}, "throttled"),
        ({"tok_s": None, "error": "too few steps"}, "window"),
    ],
)
def test_a_window_that_does_not_count_is_void_with_its_launch(program, folder, changed, guard):
    """The report says why, and its value is in no sample."""
    at = folder(spoilt=2, **changed)
    program.main([str(at)])
    (case,) = json.loads((at / "normal.json").read_text())["sweeps"][0]["cases"]
    assert [one["guard"] for one in case["void_rounds"]] == [guard]
    assert len(case["samples"]["output_throughput"]["launches"]) == 6


def test_a_meter_without_joules_leaves_the_throughput(program, folder):
    """A window whose counter did not move still counts its tokens."""
    at = folder(spoilt=0, energy={"error": "the counter did not move in 3.0 s", "joules": None})
    program.main([str(at)])
    (case,) = json.loads((at / "normal.json").read_text())["sweeps"][0]["cases"]
    assert {name: len(one["launches"]) for name, one in case["samples"].items()} == {
        "output_throughput": 7, "joules_per_output_token": 6, "mean_power_w": 6,
    }  # fmt: skip


@pytest.mark.parametrize("line", ["{", '{"run": "01-much", "kind": "window"}', "[]", '{"kind": "end"}'])
def test_a_damaged_file_is_refused_by_its_line(program, tmp_path, capsys, line):
    """As wrong usage."""
    (tmp_path / "b.jsonl").write_text('{"run": "prime", "kind": "start"}\n' + line + "\n")
    with pytest.raises(SystemExit):
        program.main([str(tmp_path)])
    assert "b.jsonl, line 2: no result of a launch" in capsys.readouterr().err
