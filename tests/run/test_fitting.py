"""Which cases are left out because they surely don't fit a machine."""

from dataclasses import replace

import pytest

from pytest_slmperf.core.beside import Beside
from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.errors import UsageError
from pytest_slmperf.core.memory import GIB, largest_batch
from pytest_slmperf.core.pool import Pool
from pytest_slmperf.core.shapes import SHAPES
from pytest_slmperf.core.sweeps.sweep import Case
from pytest_slmperf.core.sweeps.variant import Variant
from pytest_slmperf.core.sweeps.workload import ClosedLoop, OpenLoop, Replay, StaticBatch
from pytest_slmperf.engines import registry
from pytest_slmperf.run.fitting import lacking, static_only, too_large, too_many_threads

WORKLOAD = StaticBatch(512, 512)
VLLM_ARGUMENTS = (
    "max_model_len", "max_num_batched_tokens", "max_num_seqs", "max_num_partial_prefills", "max_long_partial_prefills",
    "enable_chunked_prefill", "enable_prefix_caching", "enforce_eager", "compilation_config", "cudagraph_capture_sizes",
    "gpu_memory_utilization", "kv_cache_memory_bytes", "kv_cache_dtype", "block_size", "swap_space", "cpu_offload_gb",
    "tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "distributed_executor_backend",
    "quantization", "load_format", "tokenizer", "attention_backend", "async_scheduling", "scheduling_policy",
    "speculative_config", "num_gpu_blocks_override", "disable_sliding_window", "disable_cascade_attn", "seed", "runner",
    "pooler_config", "device_ids", "stream_interval", "logprobs_mode", "api_server_count", "num_scheduler_steps",
)  # fmt: skip
"""Of its command line, those that change what is measured."""


def said(batch_size, memory_bytes, model="opt-13b", dtype="float16", workload=WORKLOAD):
    spec = EngineSpec("ctranslate2", model, dtype)
    return too_large(workload, Case("decode", spec.model_name, batch_size), spec, memory_bytes=memory_bytes)


def test_the_largest_batch_that_fits_is_tried_and_the_next_is_not():
    """Without a reserve, that a case surely doesn't fit is what the advice of the largest batch says, too."""
    most = largest_batch(SHAPES["opt-13b"], "float16", request_tokens=1024, memory_bytes=40 * GIB, reserve_bytes=0)
    assert said(most, 40 * GIB) is None
    assert "GiB, and this machine has 40.0 GiB (a model may take 90%)" in said(most + 1, 40 * GIB)
    assert "its weights and KV cache take" in said(1, GIB)


@pytest.mark.parametrize(
    "of",
    [
        pytest.param({"memory_bytes": None}, id="a machine that tells no memory"),
        pytest.param({"memory_bytes": GIB, "model": "/models/opt-13b"}, id="a converted model"),
        pytest.param({"memory_bytes": GIB, "dtype": "fp4"}, id="a type that only the engine knows"),
    ],
)
def test_what_nobody_knows_is_tried(of):
    """The engine says whether it fits."""
    assert said(64, **of) is None


def test_a_context_that_is_too_short_needs_no_memory_to_be_known():
    """More tokens than the model's context fit no machine."""
    assert "exceed the context of opt-13b, 2048" in said(1, None, workload=StaticBatch(2000, 2000))


def test_requests_that_come_one_by_one_can_wait_for_memory():
    """Only the context is looked at, where it can be known."""
    assert said(4096, GIB, workload=ClosedLoop(512, 512)) is None
    assert "exceed the context" in said(1, None, workload=OpenLoop(2000, 2000))
    assert said(1, GIB, workload=Replay()) is None


def test_traffic_goes_to_engines_that_stream():
    """Others say so before they are started, and which can take it."""
    why = static_only(ClosedLoop(8, 8), EngineSpec("ctranslate2", "opt-125m"))
    assert why.startswith("ctranslate2 serves static batches only, and requests of ClosedLoop come one by one: ")
    assert "fake" in why
    assert static_only(StaticBatch(8, 8), EngineSpec("ctranslate2", "opt-125m")) is None
    assert static_only(OpenLoop(8, 8), EngineSpec("fake", "opt-125m")) is None


@pytest.mark.parametrize(
    ("kind", "batch_size", "fits"),
    [
        ("processes", 32, True),
        ("processes", 56, False),
        ("mps", 56, False),
        ("threads", 56, True),
        ("gpus", 56, True),
        ("ray", 4096, True),
    ],
)
def test_replicas_that_share_a_memory_have_weights_each(kind, batch_size, fits):
    """Two of OPT-1.3B take 5 GB of it; what they are on elsewhere, or each alone, they don't share."""
    spec = EngineSpec("ctranslate2", "opt-1.3b", "float16", pool=Pool(2, kind))
    why = too_large(WORKLOAD, Case("decode", "opt-1.3b", batch_size), spec, memory_bytes=16 * GIB)
    assert (why is None) is fits
    assert why is None or why.startswith("the 2 replicas' weights and KV cache take ")


def test_a_budget_below_the_card_is_what_replicas_share():
    """What a smaller card would hold is then all that fits."""
    spec = EngineSpec("vllm", "opt-1.3b", "float16", pool=Pool(2, "mps", memory_bytes=16 * GIB))
    assert too_large(WORKLOAD, Case("decode", "opt-1.3b", 32), spec, memory_bytes=80 * GIB) is None
    said = too_large(WORKLOAD, Case("decode", "opt-1.3b", 56), spec, memory_bytes=80 * GIB)
    assert "the pool may take 16.0 GiB" in said
    wide = EngineSpec("vllm", "opt-1.3b", "float16", options={"tensor_parallel_size": 2}, pool=spec.pool)
    assert too_large(WORKLOAD, Case("decode", "opt-1.3b", 56), wide, memory_bytes=160 * GIB) is None


@pytest.mark.parametrize(
    ("beside", "fits"),
    [
        (Beside("opt-125m", batch_size=4), True),
        (Beside("opt-1.3b", batch_size=4, prompt_tokens=512, output_tokens=512), False),
        (Beside("opt-1.3b", batch_size=4, dtype="int8"), True),
        (Beside("opt-1.3b", request_rate=4), False),
        (Beside("/models/opt-1.3b", batch_size=4), True),
        (Beside("opt-1.3b", batch_size=4, dtype="fp4"), True),
    ],
)
def test_what_is_beside_a_model_takes_memory_too(beside, fits):
    """Its weights, and the cache of its batches; what nobody knows is tried."""
    case, spec = Case("mix", "opt-1.3b", 4), EngineSpec("ctranslate2", "opt-1.3b", "float16", beside=(beside,))
    why = too_large(WORKLOAD, case, spec, memory_bytes=5.7 * GIB)
    assert (why is None) is fits
    assert why is None or why.startswith(f"its and {beside.name}'s weights and KV cache take ")
    assert too_large(WORKLOAD, case, replace(spec, beside=()), memory_bytes=5.7 * GIB) is None


def test_a_load_beside_that_exceeds_its_context():
    """It is skipped before anything is started."""
    spec = EngineSpec("ctranslate2", "opt-125m", beside=(Beside("opt-1.3b", batch_size=1, prompt_tokens=4000),))
    why = too_large(WORKLOAD, Case("mix", "opt-125m", 1), spec, memory_bytes=None)
    assert why == "4032 tokens of prompt and output exceed the context of opt-1.3b, 2048"


def test_a_load_of_each_replica_counts_for_each():
    """Twice as many replicas then hold twice as much."""
    spec = EngineSpec("ctranslate2", "opt-1.3b", "float16", pool=Pool(2))
    case = Case("decode", "opt-1.3b", 28, variant=Variant((("replicas", 2),)), per_replica=True)
    assert too_large(WORKLOAD, case, spec, memory_bytes=16 * GIB)


def test_more_threads_than_cores_are_skipped_where_the_sweep_varies_them():
    """Another machine measures them; an engine that was given too many is an error, which its launch tells."""

    def why(spec, cores=2, **settings):
        case = Case("decode", "m", 1, variant=Variant(tuple(settings.items())))
        return too_many_threads(case, case.variant.of(spec), cores=cores)

    spec = EngineSpec("e", "m", threads=2)
    assert why(spec, replicas=2) == "2 replicas of 2 threads need 4 cores, and this machine gives 2"
    assert why(spec, threads=3) == "3 threads need 3 cores, and this machine gives 2"
    assert why(EngineSpec("e", "m", threads=3), dtype="int8") is None
    assert why(spec, replicas=1) is None
    assert why(spec, cores=None, replicas=64) is None
    other = Beside("opt-1.3b", batch_size=4)
    need = "1 thread and opt-1.3b@4 beside it need 2 cores, and this machine gives 1"
    assert why(EngineSpec("e", "m"), cores=1, beside=other) == need
    assert why(EngineSpec("e", "m"), cores=1, beside=None) is None
    assert why(EngineSpec("e", "m"), cores=1, beside=replace(other, cores="shared")) is None
    assert why(EngineSpec("e", "m", pool=Pool(9, "endpoints", addresses=("a",) * 9)), replicas=9) is None


def test_a_variant_that_an_engine_surely_lacks_is_skipped():
    """One suite serves several engines: what is only one's is skipped on the others, and the engine says the rest."""

    def why(engine, **settings):
        case = Case("prefill", "m", 1, variant=Variant(tuple(settings.items())))
        return lacking(case, case.variant.of(EngineSpec(engine, "m")))

    assert why("ctranslate2", compile=True) == "ctranslate2 has no option compile"
    assert why("fake", flash_attention=True) == "fake has no option flash_attention"
    handed_on = "ctranslate2 has no option enable_chunked_prefill (vllm may: "
    assert why("ctranslate2", enable_chunked_prefill=True).startswith(handed_on)
    assert why("vllm", dtype="int8") == "vllm has no dtype int8"
    assert why("transformers", dtype="int8") == "transformers has no dtype int8"
    assert why("vllm", enable_chunked_prefill=True, dtype="bfloat16", replicas=2, pool="mps") is None
    assert why("fake", knee=2, threads=1) is None
    assert why("ctranslate2", dtype="int8", flash_attention=True) is None
    assert why("of another package", dtype="int4", enable_chunked_prefill=True) is None
    assert why("ctranslate2", beside=Beside("m", batch_size=1, options={"compile": True})).endswith("no option compile")
    assert why("vllm", beside=Beside("m", batch_size=1, dtype="int8")) == "vllm has no dtype int8"
    served = Beside("m", batch_size=1, engine="openai", dtype="any", options={"command": "serve"})
    assert why("ctranslate2", beside=served) is None
    assert why("openai", beside=replace(served, engine="ctranslate2")) == "ctranslate2 has no option command"


@pytest.mark.parametrize(
    ("options", "varied", "says"),
    [
        ({"url": "http://127.0.0.1:8000/v1"}, {"dtype": "int8"}, "a server that runs already has the dtype that it"),
        ({"url": "http://127.0.0.1:8000/v1"}, {"threads": 1}, "a server that runs already has the threads that it"),
        ({"command": "serve --port {port}"}, {"dtype": "int8"}, "command has no {dtype}, so the server is told none"),
        ({"command": "serve --port {port}"}, {"threads": 1}, ""),
        ({"command": "serve --port {port} --dtype {dtype}"}, {"dtype": "int8"}, ""),
        (
            {"url": "http://127.0.0.1:8000/v1"},
            {"replicas": 2},
            "replicas of a server that runs already are all the same",
        ),
        ({"command": "serve --port {port}"}, {"replicas": 2}, ""),
    ],
)
def test_what_a_server_is_not_told_is_not_swept(options, varied, says):
    """One thing would be measured under several names."""
    case = Case("decode", "m", 1, variant=Variant(tuple(varied.items())))
    why = lacking(case, case.variant.of(EngineSpec("openai", "m", options=options)))
    assert (why or "").startswith(says)
    assert bool(why) is bool(says)


@pytest.mark.parametrize(
    ("engine", "name", "meant"),
    [
        ("fake", "pol", "pool"),
        ("ctranslate2", "spred", "spread"),
        ("ctranslate2", "flash_atention", "flash_attention"),
        ("transformers", "compiled", "compile"),
        ("openai", "tensor_paralel_size", "tensor_parallel_size"),
        ("fake", "dtypes", "dtype"),
    ],
)
def test_a_mistyped_option_is_none_that_an_engine_lacks(engine, name, meant):
    """Whoever mistyped it would never measure it: that is an error, and says which is meant."""
    case = Case("prefill", "m", 1, variant=Variant(((name, "x"),)))
    with pytest.raises(UsageError, match=f"no engine has an option '{name}': is '{meant}' meant"):
        lacking(case, case.variant.of(EngineSpec(engine, "m")))
    beside = EngineSpec(engine, "m", beside=(Beside("n", batch_size=1, options={name: "x"}),))
    with pytest.raises(UsageError, match=rf"Beside\('n'\): no engine has .* is '{meant}' meant"):
        lacking(Case("prefill", "m", 1), beside)


@pytest.mark.parametrize("engine", ["ctranslate2", "transformers", "openai", "fake"])
def test_an_argument_of_vllm_is_no_mistyped_option(engine):
    """It is skipped elsewhere, as it would be if its name were known here."""
    for name in VLLM_ARGUMENTS:
        case = Case("prefill", "m", 1, variant=Variant(((name, "x"),)))
        assert lacking(case, EngineSpec(engine, "m")) or registry.has_option(engine, name)
