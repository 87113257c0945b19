"""What a few launches, the engines and the stored baselines say of a machine."""

import random
from dataclasses import replace

import pytest
from baseline_files import MACHINE, RETIREMENT, stored
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_slmperf.core.datasheets import roof_of
from pytest_slmperf.core.fitness.diagnosis import (
    Diagnosis,
    Grade,
    Line,
    bandwidth_line,
    baselines_line,
    engines_line,
    noise,
    noise_line,
)
from pytest_slmperf.core.machine import Machine
from pytest_slmperf.core.metrics import metric
from pytest_slmperf.core.roofline import Reading, Roof

THROUGHPUT = metric("output_throughput")


def launches(number, spread, seed=0):
    draw = random.Random(seed)
    return [[100 * draw.lognormvariate(0, spread)] for _ in range(number)]


def test_a_machine_is_fit_unless_something_blocks():
    """Warnings and what isn't seen don't make a machine unfit."""
    lines = [Line("a", grade, "") for grade in (Grade.OK, Grade.WARNING, Grade.NOT_SEEN)]
    assert Diagnosis(MACHINE, tuple(lines)).fit
    assert not Diagnosis(MACHINE, (*lines, Line("b", Grade.BLOCKS, ""))).fit


@pytest.mark.parametrize(
    ("spread", "grade", "todo"),
    [
        (0.001, Grade.OK, ""),
        (0.01, Grade.OK, "declare at least"),
        (0.06, Grade.WARNING, "cores"),
        (0.3, Grade.BLOCKS, ""),
    ],
)
def test_the_spread_of_launches_is_graded_by_the_tolerance_that_it_supports(spread, grade, todo):
    """Quiet machines support what suites declare, noisy ones more than that, or nothing."""
    line = noise_line(THROUGHPUT, launches(15, spread), 30, "fake tiny", 16)
    assert line.grade is grade
    assert todo in line.todo
    assert line.said.startswith("15 launches of fake tiny in 30 s spread by ")
    assert line.values["launches"] == 15


def test_a_device_reads_and_multiplies_so_fast():
    """Cores by the size of what they read, a board by its datasheet; what nobody knows is not seen."""
    roof = Roof((Reading(2**20, 86e9), Reading(2**28, 15.5e9)), {"float32": 161e9}, 0.15, "measured")
    cores = bandwidth_line("1 core", roof)
    assert cores.grade is Grade.OK
    reads = "1 core reads 86 GB/s of 1 MiB, 15.5 GB/s of 256 MiB"
    assert cores.said == f"{reads}, and multiplies at 161 GFLOPS in float32 (measured)"
    assert cores.values == {
        "read_of_1_mib_bytes_per_s": 86e9,
        "read_of_256_mib_bytes_per_s": 15.5e9,
        "flops.float32": 161e9,
    }
    board = bandwidth_line("NVIDIA L4", roof_of("NVIDIA L4"))
    assert board.said.startswith("NVIDIA L4 reads 300 GB/s, and multiplies at 121,000 GFLOPS in float16, ")
    assert bandwidth_line("NVIDIA Unheard-of 1", None).grade is Grade.NOT_SEEN


@pytest.mark.parametrize("number", [0, 1, 2])
def test_two_launches_tell_nothing(number):
    """A spread of two is no spread, and more time is asked for."""
    line = noise_line(THROUGHPUT, launches(number, 0.01), 3, "fake tiny", 16)
    assert line.grade is Grade.NOT_SEEN
    assert "--seconds" in line.todo
    assert not line.values


@settings(deadline=None, max_examples=20)
@given(st.integers(3, 25), st.sampled_from([0.002, 0.01, 0.03]), st.integers(0, 10**6))
def test_the_bound_is_above_the_estimate_and_so_is_its_tolerance(number, spread, seed):
    """Fewer launches leave a wider bound; the worst tolerance is no smaller than the likely one."""
    found = noise(THROUGHPUT, launches(number, spread, seed), 16)
    assert found.spread_at_most > found.spread
    assert (found.tolerance_at_most or 1) >= (found.tolerance or 1)


def test_the_bound_holds_the_truth_in_19_of_20():
    """Of launches that are normal and independent, the true spread is below the bound in 95 %."""
    bounds = [noise(THROUGHPUT, launches(8, 0.01, seed), 16).spread_at_most for seed in range(400)]
    assert 0.92 < sum(bound > 0.01 for bound in bounds) / len(bounds) < 0.98


def test_engines_are_told_with_their_versions_and_ways_to_more():
    """Without one that does the work, nothing can be gated."""
    line = engines_line({"ctranslate2": "4.8.5", "fake": ""}, {"vllm": "pip install vllm"}, "ctranslate2")
    assert line.said == "ctranslate2 4.8.5, fake; ctranslate2 by default. Not here: pip install vllm"
    assert line.values == {"default": "ctranslate2", "engine.ctranslate2": "4.8.5", "engine.fake": ""}
    none = engines_line({"fake": ""}, {"ctranslate2": "pip install 'pytest-slmperf[ctranslate2]'"}, None)
    assert none.grade is Grade.BLOCKS
    assert "pip install" in none.todo


def test_an_engine_that_was_asked_for_and_is_not_here_blocks():
    """Others do the work, and nothing can be gated on this one: what to install is the way out."""
    line = engines_line({"fake": "", "ctranslate2": "4.8.5"}, {"vllm": "pip install vllm"}, "ctranslate2", "vllm")
    assert (line.grade, line.todo) == (Grade.BLOCKS, "pip install vllm")
    assert line.said.endswith("vllm can't be used here")


OTHER_DRIVER = Machine(MACHINE.device, "590.10", MACHINE.fields)
OTHER_LIMIT = Machine(MACHINE.device, MACHINE.driver, {**MACHINE.fields, "power_limit_w": 500})


@pytest.mark.parametrize(
    ("machine", "engine", "grade", "said", "todo"),
    [
        (MACHINE, "ctranslate2", Grade.OK, "1 cases of ctranslate2 on NVIDIA H100, 580.65 in folder: decode", ""),
        (MACHINE, "vllm", Grade.WARNING, "none of vllm", "--slmperf-accept"),
        (OTHER_DRIVER, "ctranslate2", Grade.WARNING, "there are of 580.65", "--slmperf-against=driver=580.65"),
        (OTHER_LIMIT, "ctranslate2", Grade.WARNING, "incomparable: power_limit_w was 700, is 500", "--slmperf-accept"),
    ],
)
def test_stored_baselines_are_matched_with_the_machine(machine, engine, grade, said, todo):
    """What matches is counted; what doesn't is said with the field that differs."""
    line = baselines_line("folder", [stored()], machine, engine)
    assert line.grade is grade
    assert said in line.said
    assert todo in line.todo


def test_retired_recordings_are_no_baselines():
    """A case whose every recording is retired isn't counted."""
    file = stored()
    cases = {
        name: replace(case, points=tuple(replace(point, retired=RETIREMENT) for point in case.points))
        for name, case in file.cases.items()
    }
    line = baselines_line("folder", [replace(file, cases=cases)], MACHINE, "ctranslate2")
    assert line.grade is Grade.WARNING
    assert line.values["cases"] == 0
