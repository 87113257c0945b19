"""Declaring a sweep, and what a machine's settings make of it."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_slmperf.core.binding import BINDING
from pytest_slmperf.core.errors import SuiteError
from pytest_slmperf.core.slo import Slo
from pytest_slmperf.core.sweeps.sweep import Sweep
from pytest_slmperf.core.sweeps.workload import ClosedLoop, OpenLoop, Replay, StaticBatch, TraceLengths, Uniform

WORKLOAD = StaticBatch(prompt_tokens=8, output_tokens=4)


@given(
    models=st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, unique=True),
    sizes=st.lists(st.integers(1, 512), min_size=1, max_size=5, unique=True),
)
def test_cases_are_models_times_batch_sizes(models, sizes):
    """A sweep has one case for each model and batch size, and every name says where it stands."""
    cases = Sweep("decode", WORKLOAD, batch_size=sizes).cases(models)
    assert {case.name for case in cases} == {f"decode/{model}/batch={size}" for model in models for size in sizes}


def test_the_case_of_a_path_has_its_last_part():
    """A model that is a path is called by its last part, wherever it lies."""
    (case,) = Sweep("decode", WORKLOAD, batch_size=[1], model=["models/m"]).cases(["models/m"])
    assert case.name == "decode/m/batch=1"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"name": "De code"}, "small letters"),
        ({"batch_size": []}, "batch_size"),
        ({"batch_size": [0]}, "at least 1"),
        ({"batch_size": [1, 1]}, "different"),
        ({"batch_size": [True]}, "whole numbers"),
        ({"model": ["a", "a"]}, "each once"),
        ({"model": [3]}, "takes names"),
        ({"gate": {"output_throughput": 0}}, "above 0"),
        ({"gate": {"output_throughput": 0.5}}, "up to 0.15"),
        ({"gate": {"output_througput": 0.03}}, "unknown metric"),
        ({"gate": {"p0_ttft_ms": 0.03}}, "unknown metric"),
        ({"model": ["a/m", "b/m"]}, "by their last part, each once"),
        ({"gate": [1, [2]]}, r"gate=\(1, \[2\]\); it takes names of metrics"),
        ({"percentiles": [100]}, "between 0 and 100"),
        ({"percentiles": [True]}, "between 0 and 100"),
        ({"percentiles": [50, 0.9]}, r"they are per cent, from 1 on: is 90 meant\?"),
        ({"batch_size": [10**9]}, "it takes up to 100,000"),
        ({"missing_meter": "green"}, "it takes 'red' or 'skip'"),
        ({"percentiles": [float("nan")]}, "between 0 and 100"),
    ],
)
def test_a_senseless_declaration_is_refused(arguments, said):
    """What makes no sense is an error that names the sweep's field, at the line that declares it."""
    with pytest.raises(SuiteError, match=said):
        Sweep(**{"name": "decode", "workload": WORKLOAD, "batch_size": [1], **arguments})


@pytest.mark.parametrize(
    ("lengths", "said"),
    [
        ({}, "needs"),
        ({"prompt_tokens": 8}, "needs"),
        ({"prompt_tokens": 0, "output_tokens": 4}, "at least 1"),
        ({"prompt_tokens": 1.5, "output_tokens": 4}, "whole number"),
        ({"prompt_tokens": 8, "output_tokens": 4, "lengths": TraceLengths()}, "not both"),
    ],
)
def test_a_senseless_workload_is_refused(lengths, said):
    """A workload has lengths of one kind, and they are whole and positive."""
    with pytest.raises(SuiteError, match=said):
        StaticBatch(**lengths)


OPEN = OpenLoop(8, 4)


@pytest.mark.parametrize(
    ("sweep", "named"),
    [
        (Sweep("serve", ClosedLoop(8, 4), concurrency=[1, 8]), ["serve/m/concurrency=1", "serve/m/concurrency=8"]),
        (Sweep("rate", OPEN, request_rate=[1.0, 2.5]), ["rate/m/rate=1", "rate/m/rate=2.5"]),
        (Sweep("replay", Replay(seconds=60), speed=[1]), ["replay/m/speed=1"]),
        (Sweep("decode", WORKLOAD, [4]), ["decode/m/batch=4"]),
    ],
)
def test_a_sweep_varies_its_workloads_axis(sweep, named):
    """Cases are called by it, and are looked up by its name; a whole rate is one however it is written."""
    cases = sweep.cases(["m"])
    assert [case.name for case in cases] == named
    assert [dict(case.coordinates) for case in cases] == [{"model": "m", sweep.axis: at} for at in sweep.places]


@pytest.mark.parametrize(
    ("declare", "said"),
    [
        (
            lambda: Sweep("s", ClosedLoop(8, 4), batch_size=[1]),
            r"batch_size is none of ClosedLoop: .*concurrency=\[…",
        ),
        (
            lambda: Sweep("s", WORKLOAD, [1], request_rate=[1]),
            r"request_rate is none of StaticBatch: .*batch_size=\[",
        ),
        (lambda: Sweep("s", OPEN), r"request_rate=\(\); it takes different numbers above 0"),
        (lambda: Sweep("s", OPEN, request_rate=2.5), r"request_rate=2\.5; it takes a list, as in \[1, 8\]"),
        (lambda: Sweep("s", ClosedLoop(8, 4), concurrency="8"), "it takes a list"),
        (
            lambda: Sweep("s", OPEN, request_rate={"low": 2, "high": 16}),
            r"a suite writes a search as request_rate=Search\(low=2, high=16\)",
        ),
        (lambda: Sweep("s", ClosedLoop(8, 4), concurrency={"share": 0.9}), r"concurrency=Search\(8, 64\)"),
        (lambda: Sweep("s", OPEN, request_rate=[0]), "numbers above 0"),
        (lambda: Sweep("s", OPEN, request_rate=[float("inf")]), "numbers above 0"),
        (lambda: Sweep("s", OPEN, request_rate=[1, 1e9]), "it takes up to 100,000"),
        (lambda: Sweep("s", OPEN, request_rate=[1, 1.0]), "different"),
        (lambda: Sweep("s", ClosedLoop(8, 4), concurrency=[1.5]), "whole numbers"),
        (lambda: Sweep("s", "static", batch_size=[1]), "it takes one of StaticBatch, ClosedLoop, OpenLoop, Replay"),
        (lambda: Sweep("s", OPEN, request_rate=[1], gate=["goodput_share"]), r"goodput_share.*add slo=Slo\(…\)"),
        (lambda: Sweep("s", OPEN, request_rate=[1], slo={"ttft_ms": 200}), r"it takes Slo\("),
        (lambda: Sweep("s", WORKLOAD, [1], slo=Slo(ttft_ms=200)), "StaticBatch all begin at once"),
        (Slo, "one limit at least"),
        (lambda: Slo(ttft_ms=0), "above 0"),
        (lambda: OpenLoop(8, 4, burstiness=0), "burstiness"),
        (lambda: OpenLoop(8, 4, ramp_s=-1), "ramp_s"),
        (lambda: OpenLoop(8, 4, max_concurrency=0), "max_concurrency"),
        (lambda: ClosedLoop(8, 4, shared_prefix_tokens=8), "below 8, the shortest prompt"),
        (lambda: ClosedLoop(Uniform(4, 9), 4, shared_prefix_tokens=-1), "at least 0, below 4"),
        (lambda: ClosedLoop(8), "ClosedLoop needs"),
        (lambda: Replay(seconds=0), "seconds"),
    ],
)
def test_a_senseless_sweep_of_arrivals_is_refused(declare, said):
    """The axis is the workload's own, its values make sense, and goodput says of which requests."""
    with pytest.raises(SuiteError, match=said):
        declare()


def test_the_ends_of_an_axis_are_its_smallest_and_largest_place():
    """Whatever the order in which they are declared; of one place, that one."""
    assert Sweep("s", OPEN, request_rate=[2.5, 1, 8]).ends.places == (1, 8)
    assert Sweep("s", WORKLOAD, batch_size=[4]).ends.places == (4,)


def test_settings_name_the_axis_of_the_sweep():
    """They set places, lengths and limits; an axis that the sweep doesn't vary, or lengths of a trace, they can't."""
    sweep = Sweep("rate", OPEN, request_rate=[1], slo=Slo(ttft_ms=200, tpot_ms=50))
    here = sweep.on({"request_rate": [0.5, 2], "prompt_tokens": 16, "slo": {"ttft_ms": 900}})
    assert (here.places, here.workload, here.slo) == ((0.5, 2), OpenLoop(16, 4), Slo(ttft_ms=900, tpot_ms=50))
    with pytest.raises(SuiteError, match="varies request_rate; the settings give batch_size"):
        sweep.on({"batch_size": [1]})
    with pytest.raises(SuiteError, match="from a trace; the settings give output_tokens"):
        Sweep("replay", Replay(), speed=[1]).on({"output_tokens": 4})


def test_a_test_of_some_places_names_the_axis():
    """`at` takes what the sweep varies, and its test no argument of that name."""
    sweep = Sweep("rate", OPEN, request_rate=[1, 2.5])
    assert getattr(sweep.at(2.5)(lambda: None), BINDING).places == (2.5,)
    with pytest.raises(SuiteError, match="its request_rate is one of"):
        sweep.at(3)
    with pytest.raises(SuiteError, match="passes no request_rate"):
        sweep.at(1)(lambda request_rate: request_rate)


def test_a_bare_latency_is_gated_at_its_median():
    """`ttft_ms` in a gate means the median, and a list of names takes the default tolerance."""
    assert Sweep("s", WORKLOAD, batch_size=[1], gate=["ttft_ms"]).tolerances == {"median_ttft_ms": 0.03}


def test_quantiles_are_those_gated_and_declared():
    """A launch is asked for the median, the gated and the declared percentiles, each once."""
    sweep = Sweep(
        "s", WORKLOAD, batch_size=[1], gate={"p99_ttft_ms": 0.1, "output_throughput": 0.03}, percentiles=[90, 99]
    )
    assert sweep.quantiles == (0.5, 0.9, 0.99)


def test_settings_change_axes_and_nothing_else():
    """A machine's settings replace models, sizes and lengths; the name, and so the history, stays."""
    here = Sweep("decode", WORKLOAD, batch_size=[1], gate={"output_throughput": 0.03}).on(
        {"model": ["a"], "batch_size": [4, 8], "output_tokens": 16}
    )
    assert (here.name, here.model, here.batch_size) == ("decode", ("a",), (4, 8))
    assert here.workload == StaticBatch(prompt_tokens=8, output_tokens=16)
    assert here.tolerances == {"output_throughput": 0.03}


def test_settings_cannot_set_lengths_of_a_trace():
    """A sweep that draws its lengths has none to be set."""
    with pytest.raises(SuiteError, match="trace"):
        Sweep("s", StaticBatch(lengths=TraceLengths()), batch_size=[1]).on({"prompt_tokens": 4})


def test_a_decorated_test_carries_its_sweep():
    """`each` binds a test to all cases, `at` to some; neither needs pytest."""
    sweep = Sweep("s", WORKLOAD, batch_size=[1, 4])
    assert getattr(sweep.each(lambda: None), BINDING).places is None
    assert getattr(sweep.at(4)(lambda: None), BINDING).places == (4,)
    with pytest.raises(SuiteError, match="its batch_size is one of"):
        sweep.at(2)


def test_importing_our_names_loads_neither_numpy_nor_scipy():
    """A suite's imports cost nothing: they load no array library, no pytest and no engine."""
    code = (
        "import sys; from pytest_slmperf import EngineSpec, StaticBatch, Sweep, TraceLengths; "
        "Sweep('s', StaticBatch(1, 1), batch_size=[1], gate=['ttft_ms']); "
        "print([name for name in ('numpy', 'scipy', 'pytest', 'ctranslate2') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_sweep_varies_its_engine():
    """Each combination has cases of its own, in one order however it was declared; the place stands last."""
    sweep = Sweep("decode", WORKLOAD, [8], dtype=["float32", "int8"], replicas=[2, 1], options={"chunked": [True]})
    names = [case.name for case in sweep.cases(["m"])]
    assert names == [
        f"decode/m/replicas={replicas}/dtype={dtype}/chunked=true/batch=8"
        for replicas in (2, 1)
        for dtype in ("float32", "int8")
    ]
    first = sweep.cases(["m"])[0]
    assert first.series == "decode/m/replicas=2/dtype=float32/chunked=true"
    expected = {"model": "m", "replicas": 2, "dtype": "float32", "chunked": "true", "batch_size": 8}
    assert list(first.coordinates.items()) == list(expected.items())


def test_a_load_is_for_all_replicas_or_for_each():
    """The case's name says which, and how much that is together."""
    total = Sweep("s", WORKLOAD, [64], replicas=[1, 4]).cases(["m"])
    each = Sweep("s", WORKLOAD, [64], replicas=[1, 4], per_replica=True).cases(["m"])
    assert [(case.name, case.total) for case in (*total, *each)] == [
        ("s/m/replicas=1/batch=64", 64),
        ("s/m/replicas=4/batch=64", 64),
        ("s/m/replicas=1/batch-each=64", 64),
        ("s/m/replicas=4/batch-each=64", 256),
    ]
    (rate,) = Sweep("s", OPEN, request_rate=[0.5], replicas=[2], per_replica=True).cases(["m"])
    assert (rate.name, rate.total) == ("s/m/replicas=2/rate-each=0.5", 1.0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"replicas": [0]}, r"replicas=\[0\]; it takes different whole numbers from 1 to 1,024"),
        ({"replicas": 2}, "replicas=2; it takes a list of whole numbers"),
        ({"replicas": [2, 2]}, "different"),
        ({"threads": [True]}, "whole numbers from 1 to 4,096"),
        ({"dtype": "int8"}, "it takes a list of names, as in"),
        ({"dtype": ["a/b"]}, "names"),
        ({"options": ["chunked"]}, "a table of lists by their name"),
        ({"options": {"dtype": ["int8"]}}, "'dtype', which is no name of an engine's own option"),
        ({"options": {"a-b": [1]}}, "no name of an engine's own option"),
        ({"options": {"chunked": []}}, "chunked has no value"),
        ({"options": {"chunked": [None]}}, "texts, numbers and truths"),
        ({"per_replica": True}, r"batch_size counts for each of the replicas=\[…\]"),
        ({"per_replica": 1, "replicas": [1]}, "per_replica=1; it is True where"),
        ({"per_replica": True, "replicas": [1000], "batch_size": [1000]}, "together is at most 100,000"),
    ],
)
def test_a_senseless_variation_is_refused(arguments, said):
    """What no engine can have, and what no case can be called by."""
    with pytest.raises(SuiteError, match=said):
        Sweep(**{"name": "s", "workload": WORKLOAD, "batch_size": [1], **arguments})


def test_the_ends_of_a_product_are_those_of_each_axis():
    """Names have none: each of them is another thing, and stays."""
    ends = Sweep(
        "s", WORKLOAD, [1, 8, 64], replicas=[1, 2, 4], dtype=["a", "b", "c"], options={"size": [3, 2, 1], "on": [True]}
    ).ends
    assert (ends.places, ends.replicas, ends.dtype) == ((1, 64), (1, 4), ("a", "b", "c"))
    assert ends.options == {"size": (1, 3), "on": (True,)}


def test_settings_set_what_a_sweep_varies():
    """Each axis by its name, of a sweep that has it."""
    sweep = Sweep("s", WORKLOAD, [1], replicas=[1, 8], options={"size": [1], "on": [True, False]})
    here = sweep.on({"replicas": [1, 2], "options": {"size": [2, 4]}})
    assert here.varied == {"replicas": (1, 2), "on": (True, False), "size": (2, 4)}
    with pytest.raises(SuiteError, match="varies batch_size, replicas, on, size; the settings give dtype, other"):
        sweep.on({"dtype": ["int8"], "options": {"other": [1]}})
    with pytest.raises(SuiteError, match="the settings give no replicas"):
        sweep.on({"replicas": []})


def test_a_test_of_some_variants_names_them():
    """It looks at no others, and is passed none."""
    sweep = Sweep("s", WORKLOAD, [1, 4], replicas=[1, 2])
    bound = getattr(sweep.at(4, replicas=2)(lambda: None), BINDING)
    assert (bound.places, bound.settings) == ((4,), {"replicas": 2})
    assert sweep.lacks(bound) == ""
    here = sweep.on({"replicas": [1]})
    assert here.lacks(bound) == "s has replicas=[1] on this machine and tier, not [2]"
    with pytest.raises(SuiteError, match=r"at\(replicas=3\): its replicas is one of \[1, 2\]"):
        sweep.at(4, replicas=3)
    with pytest.raises(SuiteError, match="it varies no dtype"):
        sweep.at(4, dtype="int8")
    with pytest.raises(SuiteError, match="passes no replicas"):
        sweep.at(4)(lambda replicas: replicas)
