"""The program in benchmarks/ that holds our client beside others: its arithmetic, and ours alone on real sockets."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

pytest.importorskip("aiohttp")
pytest.importorskip("uvloop")

PROGRAM = Path(__file__).parents[2] / "benchmarks/client.py"


@pytest.fixture(scope="module")
def program():
    """The module, as it is run."""
    spec = importlib.util.spec_from_file_location("client_benchmark", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def told(capsys):
    """The cells of each line of its tables."""
    printed = capsys.readouterr().out
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines() if "|" in line]


def number(cell):
    return float(re.match(r"[-+\d.,]+", cell)[0].replace(",", ""))


def test_what_starting_takes_is_in_no_figure(program):
    """Two runs differ by their requests alone, so their difference is what the requests took."""
    shorter = program.Run(100, wall_s=5.0 + 1.0, client_s=4.0 + 0.5, server_s=0.95, told={})
    longer = program.Run(300, wall_s=5.0 + 3.0, client_s=4.0 + 1.5, server_s=2.85, told={})
    pace = program.pace(shorter, longer)
    assert pace.requests_per_s == pytest.approx(100)
    assert pace.client_s == pytest.approx(0.005)
    assert (pace.client_busy, pace.server_busy) == (pytest.approx(0.5), pytest.approx(0.95))
    assert pace.limit == "server"


def test_a_difference_that_starting_hides_is_no_figure(program):
    """A longer run that took less time says how starting varies, and nothing of requests."""
    shorter, longer = (program.Run(requests, wall, 1.0, 1.0, {}) for requests, wall in ((10, 5.0), (30, 4.9)))
    with pytest.raises(program.NotMeasured, match="20 more requests took no more time"):
        program.pace(shorter, longer)


def test_a_row_is_by_tokens_where_answers_have_several(program):
    """A request of 512 tokens that takes 5.12 ms of processor time is 10 µs a token, and 100,000 tokens a core."""
    paces = [program.Pace(requests_per_s, 0.00512, 0.95, 0.5) for requests_per_s in (100, 110, 150)]
    line = program.row("ours", paces, 512)
    assert line == [*("ours", "3", "56,320 (51,200–76,800)", "10.00 (10.00–10.00)", "100,000", "95%", "50%", "client")]


def test_errors_are_by_what_the_server_knows(program):
    """What a tool doesn't tell is a dash, and never 0."""
    lines = program.errors("tool", {"median_ttft_ms": 22.0}, {"median_ttft_ms": 20.0, "p90_ttft_ms": 30.0})
    assert lines[0] == ["tool", "ttft_ms", "22.00 (+2.00, +10.0%)", "–", "–"]


def test_speed_runs_ours_and_says_what_is_not_measured(program, capsys, tmp_path):
    """Ours has a figure of every load; a tool that isn't there, or that fails, has its reason in its place."""
    failing = tmp_path / "failing"
    failing.write_text("#!/bin/sh\necho no such option >&2\nexit 3\n")
    failing.chmod(0o755)
    program.main(["speed", "--requests=40", "--answers=4", "--pairs=1", f"--guidellm={failing}", "--aiperf=/nowhere/x"])
    lines = told(capsys)
    mine = [line for line in lines if line[0] == "pytest-slmperf"]
    assert len(mine) == 3
    assert all(line[1] == "1" or "took no more time" in line[2] for line in mine)  # a start varies on a busy machine
    assert ["guidellm", "not measured", "it ended with exit code 3: no such option"] in [line[:3] for line in lines]
    assert ["vllm bench serve", "not measured", "it isn't given"] in [line[:3] for line in lines]
    (unstarted,) = {line[2] for line in lines if line[0] == "aiperf"}
    assert unstarted.startswith("/nowhere/x can't be started")


def test_accuracy_holds_ours_to_the_server(program, capsys):
    """Each latency has its error; tokens that come 10 ms apart are seen so."""
    program.main(["accuracy", "--requests=24"])
    mine = {line[1]: line[2:] for line in told(capsys) if line[0] == "pytest-slmperf"}
    assert mine.keys() == {"ttft_ms", "tpot_ms", "itl_ms", "e2el_ms"}
    assert 9 < number(mine["tpot_ms"][0]) < 40
    assert number(mine["e2el_ms"][1]) > 300
    assert mine["ttft_ms"][2] == "–"  # of 24 requests there is no p99


def test_lateness_is_of_every_request(program, capsys):
    """A row for each rate, with as many requests as the schedule has."""
    program.main(["lateness", "--rates", "40", "80", "--seconds=1"])
    lines = told(capsys)[2:]
    expected = [len(program.Ask(16, 1, rate=rate, seconds=1.0).due_s()) for rate in (40.0, 80.0)]
    assert [int(line[1]) for line in lines] == expected
    for _, _, middle, high, largest, _, cpu_us in lines:
        assert 0 <= number(middle) <= number(high) <= number(largest)
        assert number(cpu_us) > 0
