"""Readers of other tools' files: what is taken as it is, converted, refused, and what is wrong with a file."""

import json
import math
from pathlib import Path

import foreign_files
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_slmperf.core.errors import SlmperfError, UsageError
from pytest_slmperf.report.foreign.fields import Fields
from pytest_slmperf.report.foreign.reading import FORMATS, read

EVERY = pytest.mark.parametrize("tool", foreign_files.TOOLS)
SCALARS = {"request_throughput": 11.8, "output_throughput": 1500.0, "total_token_throughput": 3000.0}
MEDIANS = {"median_ttft_ms": 40.0, "median_tpot_ms": 5.0, "median_itl_ms": 4.9, "median_e2el_ms": 675.0}


def saved(folder, content, name="run.json"):
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def one(folder, content):
    """The one result of a file with this content."""
    (result,) = read(saved(folder, content))
    return result


@EVERY
def test_each_tool_reads_as_our_metrics(tmp_path, tool):
    """The same engine under the same load has the same figures, whoever measured it, in our units and names."""
    result = one(tmp_path, foreign_files.TOOLS[tool]())
    expected = {**SCALARS, **MEDIANS}
    if tool == "guidellm":
        del expected["median_itl_ms"]
    if tool == "sglang":
        del expected["median_tpot_ms"], expected["median_e2el_ms"]
    found = {name: value for name, (value,) in result.values.items()}
    assert {name: found.get(name) for name in expected} == pytest.approx(expected)
    assert found["p99_ttft_ms"] == pytest.approx(48.0)
    assert (result.load.label, result.load.prompt_tokens, result.load.output_tokens) == ("concurrency=8", 128, 128)
    assert result.failure == ""


@EVERY
def test_quantiles_of_too_few_requests_are_refused(tmp_path, tool):
    """The tools write the largest of 100 values as their p99.9."""
    result = one(tmp_path, foreign_files.TOOLS[tool]())
    assert not any(name.startswith("p99.9") and "itl" not in name for name in result.values)


def test_guidellm_has_another_tpot(tmp_path):
    """Its TPOT, with the first token, is left out; its ITL is our TPOT, where all answers are equally long."""
    result = one(tmp_path, foreign_files.guidellm())
    assert result.values["median_tpot_ms"] == (5.0,)
    assert "median_itl_ms" in result.unmeasured
    uneven = {"successful": {"mean": 128.0, "std_dev": 40.0}}
    result = one(tmp_path, foreign_files.guidellm(output_token_count=uneven))
    assert "median_tpot_ms" not in result.values
    assert "weighs each request by its tokens" in result.unmeasured["median_tpot_ms"]


@pytest.mark.parametrize(
    ("strategy", "label"),
    [
        ({"type_": "synchronous"}, "concurrency=1"),
        ({"type_": "throughput", "max_concurrency": 512}, "request_rate=inf"),
        ({"type_": "constant", "rate": 4.0}, "rate=4"),
        ({"type_": "poisson", "rate": 2.5}, "rate=2.5"),
        ({"type_": "trace", "time_scale": 0.5, "schedule_turn": "timestamp"}, "speed=2"),
    ],
)
def test_guidellm_strategies_are_loads(tmp_path, strategy, label):
    """Each is a place on the axis that a sweep of ours would have."""
    content = foreign_files.guidellm()
    content["benchmarks"][0]["config"]["strategy"] = strategy
    assert one(tmp_path, content).load.label == label.replace("request_rate", "rate")


def test_guidellm_sweeps_are_several_results(tmp_path):
    """Each benchmark of a file is called by its number."""
    content = foreign_files.guidellm()
    content["benchmarks"] += foreign_files.guidellm(0.9)["benchmarks"]
    assert [result.place.rpartition(", ")[2] for result in read(saved(tmp_path, content))] == [
        "benchmark 0",
        "benchmark 1",
    ]


def test_aiperf_units_are_converted(tmp_path):
    """The unit that a metric states is the one it is read in."""
    seconds = {"unit": "sec", "avg": 0.68, "p50": 0.675}
    assert one(tmp_path, foreign_files.aiperf(request_latency=seconds)).values["median_e2el_ms"] == (675.0,)


def test_aiperf_without_streaming_has_no_ttft(tmp_path):
    """What it didn't measure is named."""
    content = foreign_files.aiperf()
    del content["time_to_first_token"]
    assert "--streaming" in one(tmp_path, content).unmeasured["median_ttft_ms"]


@pytest.mark.parametrize(
    ("phase", "label"),
    [
        ({"type": "poisson", "rate": 4.0, "requests": 100}, "rate=4"),
        ({"type": "gamma", "rate": 0.5, "smoothness": 2.0}, "rate=0.5"),
        ({"type": "fixed_schedule"}, "speed=1"),
    ],
)
def test_aiperf_phases_are_loads(tmp_path, phase, label):
    """The phase that is measured says how requests arrived."""
    content = foreign_files.aiperf()
    content["input_config"]["phases"] = [phase]
    assert one(tmp_path, content).load.label == label


def test_aiperf_aggregates_are_refused(tmp_path):
    """A summary of several runs has lost their launches."""
    content = {"metadata": {"aggregation_type": "confidence"}, "metrics": {}}
    with pytest.raises(SlmperfError, match="import the profile_export_aiperf"):
        read(saved(tmp_path, content))


@pytest.mark.parametrize(
    ("tool", "tpot", "itl"),
    [
        ("vllm-benchmark", 5.0, 4.9),
        ("inference-perf", 5.0, 4.9),
        ("pytest-slmperf", 5.0, 4.9),
        ("aiperf", 4.9, None),
        ("guidellm", 4.9, None),
        ("inferencemax", None, None),
        ("another", None, None),
    ],
)
def test_llmd_means_what_its_tool_means(tmp_path, tool, tpot, itl):
    """TPOT and ITL of a report are those of the tool that it names; of an unknown tool they are refused."""
    result = one(tmp_path, foreign_files.llmd(tool=tool))
    assert result.values.get("median_tpot_ms", (None,)) == pytest.approx((tpot,))
    assert result.values.get("median_itl_ms", (None,)) == pytest.approx((itl,))
    for name, value in {"median_tpot_ms": tpot, "median_itl_ms": itl}.items():
        assert (name in result.unmeasured) is (value is None)
    assert result.tool == f"llm-d report of {tool}"


def test_llmd_says_what_it_ran_on(tmp_path):
    """The one engine of its stack names itself and its accelerator; beside others nobody knows which it was."""
    content = foreign_files.llmd()
    assert one(tmp_path, content).facts == {
        "engine": "vllm",
        "engine_version": "0.33.0",
        "device": "NVIDIA-H100-80GB-HBM3",
    }
    content["scenario"]["stack"] *= 2
    assert one(tmp_path, content).facts == {}


def test_llmd_is_read_as_yaml(tmp_path):
    """As its own tools write it: dates are dates, a version may be a number, and infinity is `.inf`."""
    text = json.dumps(foreign_files.llmd())
    text = text.replace('"0.2"', "0.2").replace('"2026-01-31T17:30:00Z"', "2026-01-31T17:30:00Z")
    path = saved(tmp_path, text.replace('"concurrency": 8', '"concurrency": .inf, "rate_qps": 10'), "report.yaml")
    (result,) = read(path)
    assert (result.load.label, result.began) == ("rate=10", "2026-01-31T17:30:00+00:00")


def test_sglang_totals_are_the_sum_of_both(tmp_path):
    """Older versions write prompt and generated tokens per second apart."""
    older = foreign_files.sglang(input_throughput=500.0, total_throughput=None)
    assert one(tmp_path, older).values["total_token_throughput"] == (2000.0,)
    newer = foreign_files.sglang(total_throughput=2001.0)
    assert one(tmp_path, newer).values["total_token_throughput"] == (2001.0,)


def test_sglang_counts_no_prompts_of_conversations(tmp_path):
    """Of several turns it writes 0 tokens of prompts, and the answers' throughput as that of both."""
    result = one(tmp_path, foreign_files.sglang(total_input_tokens=0, input_throughput=0.0, total_throughput=1500.0))
    assert "total_token_throughput" not in result.values
    assert "doesn't count the prompts' tokens" in result.unmeasured["total_token_throughput"]
    assert result.load.prompt_tokens is None


def test_sglang_answers_that_were_not_streamed_have_no_first_token(tmp_path):
    """`--disable-stream` writes the whole answer's time as that of its first token, and a TPOT just below 0."""
    whole = foreign_files.sglang(
        median_ttft_ms=675.0, mean_tpot_ms=-0.0007, median_tpot_ms=-0.0006, mean_itl_ms=0.0, median_itl_ms=0.0
    )
    result = one(tmp_path, whole)
    assert not {name for name in result.values if "_ms" in name}
    assert "weren't streamed" in result.unmeasured["median_ttft_ms"]
    assert result.values["output_throughput"] == (1500.0,)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"accept_length": 2.4}, "decoded speculatively"),
        ({"backend": "sglang-oai", "accept_length": 2.4}, "decoded speculatively"),
        ({"server_info": {"stream_interval": 8}}, "shares a gap out among them"),
        ({"backend": "sglang-oai", "server_info": {"stream_interval": 8}}, ""),
        ({"server_info": {"stream_interval": 1}}, ""),
    ],
)
def test_sglang_gaps_are_none_where_it_shares_them_out(tmp_path, changes, says):
    """Among the tokens of a part: speculatively always, and else by its own protocol."""
    result = one(tmp_path, foreign_files.sglang(**changes))
    assert ("p99_itl_ms" in result.values) is not bool(says)
    assert says in result.unmeasured.get("median_itl_ms", "")
    assert result.values["median_ttft_ms"] == (40.0,)


def test_sglang_replays_a_trace_at_its_own_times(tmp_path):
    """That is a load of its own, and no rate."""
    load = one(tmp_path, foreign_files.sglang(request_rate="trace", max_concurrency=None)).load
    assert (load.axis, load.label) == ("request_rate", "rate=trace")


def test_sglang_goodput_is_refused(tmp_path):
    """Which limits a request had to meet is no part of what is imported."""
    good = foreign_files.sglang(goodput_slos_ms={"ttft": 500.0}, request_goodput=11.0, slo_attainment=0.93)
    assert "limits" in one(tmp_path, good).unmeasured["request_goodput"]


def test_sglang_counts_to_the_end_of_the_stream(tmp_path):
    """Its TPOT and E2EL are none of ours; each request's gaps say what it took to its last token."""
    result = one(tmp_path, foreign_files.sglang())
    for name in ("median_tpot_ms", "median_e2el_ms"):
        assert name not in result.values
        assert "--output-details" in result.unmeasured[name]
    requests = {"ttfts": [0.04] * 98 + [0.05, 0.06], "itls": [[0.005] * 127] * 100, "output_lens": [128] * 100}
    values = one(tmp_path, foreign_files.sglang(errors=[""] * 100, **requests)).values
    assert values["median_tpot_ms"] == pytest.approx((5.0,))
    assert values["median_e2el_ms"] == pytest.approx((675.0,))
    assert values["p99_e2el_ms"] == pytest.approx((685.1,))


def test_sglang_gaps_that_are_none_are_named(tmp_path):
    """With the place in the file."""
    requests = {"ttfts": [0.04, 0.04], "itls": [[0.005], 0.005], "output_lens": [2, 2]}
    with pytest.raises(SlmperfError, match=r"itls.*its item 1 is no list"):
        one(tmp_path, foreign_files.sglang(**requests))


def test_sglang_says_what_failed_with_its_details(tmp_path):
    """With --output-details each request is there; without, nobody knows how many were sent."""
    assert one(tmp_path, foreign_files.sglang()).answered == 100
    detailed = one(tmp_path, foreign_files.sglang(errors=[""] * 99 + ["reset", "reset"]))
    assert (detailed.answered, detailed.failure.partition(",")[0]) == (None, "1 of 101 requests failed")


def test_sglang_says_its_server(tmp_path):
    """Newer versions keep what the server said of itself."""
    server = {"model_path": "Qwen/Qwen3-0.6B", "version": "0.5.23", "dtype": "auto"}
    result = one(tmp_path, foreign_files.sglang(server_info=server))
    assert (result.model, result.facts) == ("Qwen/Qwen3-0.6B", {"engine": "sglang", "engine_version": "0.5.23"})


def test_vllm_metadata_says_the_rest(tmp_path):
    """`--metadata driver=580.65` is taken as the fact that it names, and what else is noted as an option."""
    result = one(tmp_path, foreign_files.vllm(driver="580.65", dtype="bfloat16", tensor_parallel_size="2"))
    assert result.facts == {"driver": "580.65", "dtype": "bfloat16"}
    assert result.options == {"tensor_parallel_size": "2"}


def test_vllm_speculation_has_no_itl(tmp_path):
    """A gap between chunks is one of several tokens then."""
    result = one(tmp_path, foreign_files.vllm(spec_decode_acceptance_rate=0.7))
    assert "median_itl_ms" not in result.values
    assert "speculatively" in result.unmeasured["median_itl_ms"]
    assert "median_tpot_ms" in result.values


def test_vllm_without_streaming_has_no_ttft(tmp_path):
    """vLLM writes 0 then, and no token comes at once."""
    result = one(tmp_path, foreign_files.vllm(median_ttft_ms=0.0, p99_ttft_ms=0.0))
    assert "weren't streamed" in result.unmeasured["median_ttft_ms"]


def test_vllm_constant_rate_is_written_as_infinity(tmp_path):
    """Python writes `Infinity` for --burstiness=inf, which is no JSON, and no measured value."""
    result = one(tmp_path, foreign_files.vllm(request_rate=4.0, burstiness=math.inf))
    assert (result.load.label, result.load.key["burstiness"]) == ("rate=4", "inf")


def test_vllm_throughput_counts_prompts_and_answers(tmp_path):
    """Its tokens per second are of both together."""
    content = {"elapsed_time": 10.0, "num_requests": 100, "total_num_tokens": 25600}
    result = one(tmp_path, content | {"requests_per_second": 10.0, "tokens_per_second": 2560.0})
    assert result.values == {"request_throughput": (10.0,), "total_token_throughput": (2560.0,)}
    assert "together" in result.unmeasured["output_throughput"]


def test_vllm_latency_has_a_round_for_each_iteration(tmp_path):
    """An iteration is one batch, whose requests end together: its seconds are the E2EL of each."""
    content = {"avg_latency": 1.1, "latencies": [1.0, 1.1, 1.2], "percentiles": {"50": 1.1}}
    assert one(tmp_path, content).values["median_e2el_ms"] == pytest.approx((1000.0, 1100.0, 1200.0))


@pytest.mark.parametrize(
    "content",
    [
        foreign_files.vllm(mean_itl_ms=20.2),
        foreign_files.sglang(mean_itl_ms=20.2),
        foreign_files.aiperf(inter_chunk_latency={"unit": "ms", "avg": 20.4, "p50": 20.0}),
    ],
    ids=["vllm", "sglang", "aiperf"],
)
def test_gaps_of_several_tokens_are_said_to_be_of_chunks(tmp_path, content):
    """Where their mean is a multiple of TPOT's."""
    (note,) = one(tmp_path, content).notes
    assert note.startswith("the mean gap is 4.0 times the mean TPOT: chunks carry several tokens")


FAILING = {
    "vllm": foreign_files.vllm(failed=3),
    "vllm, older": {name: value for name, value in foreign_files.vllm(completed=97).items() if name != "failed"},
    "guidellm": foreign_files.guidellm(request_totals={"successful": 97, "errored": 3, "incomplete": 0, "total": 100}),
    "aiperf": foreign_files.aiperf(error_request_count={"unit": "requests", "avg": 3.0}),
    "aiperf, summed up": foreign_files.aiperf(error_summary=[{"count": 3, "error_details": {"message": "reset"}}]),
    "llmd": foreign_files.llmd(requests={"total": 100, "failures": 3}),
}


@pytest.mark.parametrize("what", FAILING)
def test_failed_requests_void_a_result(tmp_path, what):
    """A failed request is never a fast one, so that nothing else of the run counts."""
    assert one(tmp_path, FAILING[what]).failure.startswith("3 of 10")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"was_cancelled": True}, "the run was cancelled"),
        ({"is_complete": False, "incomplete_reason": "stalled"}, "the run is not complete: stalled"),
    ],
)
def test_a_run_that_was_cut_off_is_void(tmp_path, changes, why):
    """AIPerf says so."""
    assert one(tmp_path, foreign_files.aiperf(**changes)).failure == why


def test_requests_that_were_under_way_at_the_end_are_noted(tmp_path):
    """GuideLLM cuts them off when its time is up; they didn't fail."""
    totals = {"successful": 96, "errored": 0, "incomplete": 4, "total": 100}
    result = one(tmp_path, foreign_files.guidellm(request_totals=totals))
    assert (result.failure, result.notes) == ("", ("4 requests were under way when it ended, and count for nothing",))


def test_lines_are_results(tmp_path):
    """Each is called by its line; empty ones count for nothing."""
    text = f"{json.dumps(foreign_files.sglang())}\n\n{json.dumps(foreign_files.sglang(1.1))}\n"
    places = [result.place.rpartition(", ")[2] for result in read(saved(tmp_path, text, "runs.jsonl"))]
    assert places == ["line 1", "line 3"]


PATHS = {
    "vllm": ("output_throughput",),
    "sglang": ("output_throughput",),
    "guidellm": ("benchmarks", 0, "metrics", "output_tokens_per_second", "successful", "mean"),
    "aiperf": ("output_token_throughput", "avg"),
    "llmd": ("results", "request_performance", "aggregate", "throughput", "output_token_rate", "mean"),
}
WRONG = {
    "NaN": math.nan,
    "negative": -1.0,
    "infinite": math.inf,
    "huge": 1e99,
    "400 digits": 10**399,
    "a text": "1500",
    "a list": [1500.0],
    "true": True,
    "missing": None,
}


@EVERY
@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_value_is_one_clear_error(tmp_path, tool, what):
    """It names the file and the field."""
    content = foreign_files.TOOLS[tool]()
    *path, last = PATHS[tool]
    inside = content
    for name in path:
        inside = inside[name]
    inside[last] = WRONG[what]
    with pytest.raises(SlmperfError) as refused:
        read(saved(tmp_path, content))
    said = str(refused.value)
    assert said.startswith(f"{tmp_path / 'run.json'}: $.")
    assert f".{last}: " in said
    assert "\n" not in said
    assert len(said) < 1200


DAMAGES = {
    "empty": "",
    "cut off": json.dumps(foreign_files.vllm())[:400],
    "no JSON": "mean_ttft_ms,40.0",
    "HTML": "<html></html>",
    "a list": "[]",
    "a number": "1",
    "no UTF-8": b'{"model_id": "\xff"}',
    "a name twice": '{"request_throughput": 1, "request_throughput": 2}',
    "100,000 arrays deep": "[" * 100_000 + "]" * 100_000,
    "5,000 digits": '{"request_throughput": ' + "9" * 5000 + ', "model_id": "m", "failed": 0}',
    "another tool's": json.dumps({"machine_info": {}, "benchmarks": []}),
    "an empty object": "{}",
    "no benchmark": json.dumps({**foreign_files.guidellm(), "benchmarks": []}),
    "an older GuideLLM": json.dumps(
        {**foreign_files.guidellm(), "metadata": {"guidellm_version": "0.3", "version": 1}}
    ),
    "an older llm-d": json.dumps({**foreign_files.llmd(), "version": "0.1"}),
    "another unit": json.dumps(foreign_files.aiperf(request_latency={"unit": "fortnights", "p50": 1.0})),
    "no unit": json.dumps(foreign_files.aiperf(request_latency={"p50": 1.0})),
    "another load": json.dumps(foreign_files.aiperf(input_config={"phases": [{"type": "agentic", "rate": 1}]})),
    "no load": json.dumps(foreign_files.aiperf(input_config={})),
    "half a character": json.dumps(foreign_files.vllm(model_id="\ud83d")),
    "a name of 5,000 characters": json.dumps(foreign_files.vllm(model_id="m" * 5000)),
    "a steering name": json.dumps(foreign_files.vllm(model_id="m\x1b[2J")),
    "no date": json.dumps(foreign_files.vllm(date="yesterday")),
    "a rate of 0": json.dumps(foreign_files.vllm(request_rate=0)),
    "half a request": json.dumps(foreign_files.vllm(failed=0.5)),
    "nothing of failures": json.dumps({**foreign_files.vllm(), "failed": None, "num_prompts": None}),
    "no latencies": json.dumps({"avg_latency": 1.0, "latencies": []}),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_file_is_one_clear_error(tmp_path, what):
    """It is named with what is wrong, in one line."""
    content = DAMAGES[what]
    path = tmp_path / "run.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    with pytest.raises(SlmperfError) as refused:
        read(path)
    said = str(refused.value)
    assert said.startswith(f"{path}: ")
    assert "\n" not in said
    assert len(said) < 1200


def test_a_broken_line_is_named(tmp_path):
    """A run that was killed leaves half of its last line."""
    text = json.dumps(foreign_files.sglang())
    with pytest.raises(SlmperfError, match=r"runs\.jsonl, line 2: not JSON at line 1"):
        read(saved(tmp_path, f"{text}\n{text[:300]}\n", "runs.jsonl"))


@pytest.mark.parametrize("text", ["a: [", "a: !!python/object:os.system {}", "- " * 20_000, "\x00"])
def test_broken_yaml_is_one_clear_error(tmp_path, text):
    """Nothing in it is executed."""
    with pytest.raises(SlmperfError) as refused:
        read(saved(tmp_path, text, "report.yaml"))
    assert str(refused.value).startswith(f"{tmp_path / 'report.yaml'}: ")


def test_a_report_of_ours_is_sent_to_where_it_is_read(tmp_path):
    """It needs no import."""
    with pytest.raises(UsageError, match="a report of slmperf already"):
        read(saved(tmp_path, {"format": "slmperf-report", "version": 1}))


def test_what_is_no_file_is_refused(tmp_path):
    """A folder is none, nor is what isn't there."""
    for path in tmp_path, tmp_path / "gone.json":
        with pytest.raises(UsageError):
            read(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=10), inside, max_size=3),
    max_leaves=5,
)


def places(value, at=()):
    """Where every value of a document is."""
    yield at
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, one_of in inside:
        yield from places(one_of, (*at, name))


@given(data=st.data(), tool=st.sampled_from(sorted(foreign_files.TOOLS)), wrong=JSON)
def test_any_value_anywhere_is_read_or_refused(data, tool, wrong):
    """Whatever stands in a field, the answer is a result or an error of ours."""
    content = foreign_files.TOOLS[tool]()
    *path, last = data.draw(st.sampled_from([at for at in places(content) if at]))
    inside = content
    for name in path:
        inside = inside[name]
    inside[last] = wrong
    form = next((one for one in FORMATS if one.recognises(content)), None)
    if form is None:
        return
    try:
        results = list(form.results(Fields("run.json", content)))
    except SlmperfError as error:
        results, said = [], str(error)
    else:
        said = "run.json: $"
    assert said.startswith("run.json: $")
    assert all(value > 0 for result in results for values in result.values.values() for value in values)


def test_names_of_fields_are_unique_to_their_tools():
    """No tool's file is taken for another's."""
    for tool, made in foreign_files.TOOLS.items():
        first = next(form for form in FORMATS if form.recognises(made()))
        assert first.__name__.rpartition(".")[2] == tool, Path(first.__file__ or "").name
