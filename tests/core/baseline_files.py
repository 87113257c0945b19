"""Baseline files and recordings that the tests of the baselines share: by hand, and drawn."""

import random

import pytest
from hypothesis import strategies as st

from pytest_slmperf.core.baselines.baseline import BaselineFile, Retirement
from pytest_slmperf.core.baselines.recordable import LEAST_LAUNCHES
from pytest_slmperf.core.baselines.revision import Recording, updated
from pytest_slmperf.core.errors import BaselineError
from pytest_slmperf.core.machine import Machine
from pytest_slmperf.core.sample import Measurement, Sample

MACHINE = Machine("NVIDIA H100", "580.65", {"cores": 16, "power_limit_w": 700, "kernel": "6.1.0"})
SIMULATED = Machine("simulated", "simulated")
KEY = {"engine": "ctranslate2", "engine_version": "4.8.5", "dtype": "float32", "threads": 1, "batch_size": 4}
CASE = "decode/opt-125m/batch=4"
GATED = {(CASE, "output_throughput"): 0.03}
RETIREMENT = Retirement("2026-02-01T00:00:00Z", "the fan was broken", "somebody")


def sample(median=4000.0, launches=LEAST_LAUNCHES, rounds=3, seed=0):
    draw = random.Random(seed)
    return Sample.of([[median * draw.uniform(0.99, 1.01) for _ in range(rounds)] for _ in range(launches)])


def measurement(case=CASE, key=KEY, **samples):
    return Measurement(case, key, samples or {"output_throughput": sample()})


def recording(*measurements, tolerances=GATED, **facts):
    return Recording(measurements or (measurement(),), tolerances, "2026-01-01T00:00:00Z", **facts)


def accepted(file, *measurements, tolerances=GATED):
    return updated(file, MACHINE, "ctranslate2", "decode", recording(*measurements, tolerances=tolerances))


def stored(*medians, machine=MACHINE, key=KEY):
    """A file with one case, recorded once for each of these medians."""
    file = None
    for median in medians or (4000.0,):
        one = measurement(key=key, output_throughput=sample(median, seed=int(median)))
        file = updated(file, machine, "ctranslate2", "decode", recording(one))
    return file


def refusal(what, machine=MACHINE, file=None, engine="ctranslate2"):
    with pytest.raises(BaselineError) as caught:
        updated(file, machine, engine, "decode", what)
    return str(caught.value)


scalars = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["float32", "int8", "", "a b"])
names = st.sampled_from(["dtype", "threads", "option.x", "engine_version", "prompt_tokens"])
keys = st.dictionaries(names, scalars)
machines = st.builds(
    Machine,
    st.sampled_from(["x", "y"]),
    st.sampled_from(["1", "2"]),
    st.dictionaries(st.sampled_from(["cores", "power_limit_w", "kernel", "hostname"]), st.integers(1, 2) | st.none()),
)
samples = st.builds(sample, st.floats(1e-6, 1e9), st.integers(20, 22), st.integers(1, 3), st.integers(0, 3))
metrics = st.dictionaries(st.sampled_from(["output_throughput", "median_ttft_ms", "p99_itl_ms"]), samples, min_size=1)


@st.composite
def recordings(draw):
    cases = draw(st.dictionaries(st.sampled_from(["a/m/batch=1", "a/m/batch=2", "a/n/batch=1"]), metrics, min_size=1))
    measurements = [Measurement(case, draw(keys), samples) for case, samples in cases.items()]
    gated = {(one.case, name): draw(st.floats(0.001, 0.15)) for one in measurements for name in one.samples}
    return Recording(measurements, gated, "2026-01-01T00:00:00Z", by=draw(st.sampled_from(["", "me"])))


@st.composite
def files(draw) -> BaselineFile:
    machine, file = draw(machines), None
    for one in draw(st.lists(recordings(), min_size=1, max_size=2)):
        file = updated(file, machine, "ctranslate2", "a", one)
    return file
