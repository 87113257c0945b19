"""How the vllm engine starts its server, and what it reads from its log and metrics; no vLLM is needed for that."""

import logging
import logging.config
import re
import sys
import time

import pytest

from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.errors import EngineUnavailable
from pytest_slmperf.core.shapes import SHAPES
from pytest_slmperf.engines import vllm_log
from pytest_slmperf.engines.vllm import (
    CPU_CACHE_BYTES,
    GIB,
    NO_KERNELS,
    VLLM,
    Board,
    _boards,
    _cache_bytes,
    command_line,
    create,
)

CONFIGURED = (
    "model='/models/tiny', skip_tokenizer_init=True, dtype=torch.{dtype}, max_seq_len=2048, load_format=auto, "
    "tensor_parallel_size=1, quantization={quantization}, enforce_eager=False, kv_cache_dtype=auto, "
    "device_config={device}, enable_prefix_caching=False, enable_chunked_prefill=True, compilation_config={{'mode': "
    "<CompilationMode.{mode}: 3>, 'cudagraph_mode': <CUDAGraphMode.{graphs}: 0>, 'cudagraph_capture_sizes': [{sizes}]}}"
)
ON_A_CPU = f"""
Triton is installed, but doesn't include CPU backend. Disabling Triton.
INFO 1000.500 [api_utils.py:347] vLLM server version 0.32.0, serving model /models/tiny
INFO 1013.444 [core.py:133] Initializing a V1 LLM engine (v0.32.0) with config: {
    CONFIGURED.format(
        dtype="float32", quantization="None", device="cpu", mode="DYNAMO_TRACE_ONCE", graphs="NONE", sizes=""
    )
}
INFO 1023.140 [cpu_model_runner.py:68] Starting to load model /models/tiny...
Loading safetensors checkpoint shards: 100% Completed | 6/6 [00:00<00:00, 1087.12it/s]
INFO 1023.346 [default_loader.py:501] Loading weights took 0.03 seconds
INFO 1024.043 [cpu_model_runner.py:87] Warming up model for the compilation...
INFO 1032.333 [cpu_model_runner.py:91] Warming up done.
INFO 1032.350 [kv_cache_utils.py:2327] CPU KV cache size: 524,288 tokens, Maximum concurrency for 2,048 tokens: 256.00x
INFO 1037.978 [core.py:402] init engine (profile, create kv cache, warmup model) took 13.94 s
"""
"""Lines of vLLM 0.32 on a CPU, shortened."""
ON_A_GPU = f"""
INFO 2013.000 [core.py:101] Initializing a V1 LLM engine (v0.22.1) with config: {
    CONFIGURED.format(
        dtype="bfloat16",
        quantization="fp8",
        device="cuda",
        mode="VLLM_COMPILE",
        graphs="FULL_AND_PIECEWISE",
        sizes="1, 2, 4, 8, 16",
    )
}
INFO 2014.000 [scheduler.py:231] Chunked prefill is enabled with max_num_batched_tokens=8192.
INFO 2020.000 [gpu_model_runner.py:4691] Starting to load model /models/tiny...
INFO 2020.500 [cuda.py:333] Using FLASH_ATTN attention backend out of potential backends: ['FLASH_ATTN', 'TRITON'].
INFO 2022.000 [default_loader.py:384] Loading weights took 1.25 seconds
INFO 2022.250 [gpu_model_runner.py:4775] Model loading took 2.45 GiB memory and 2.100000 seconds
INFO 2031.000 [monitor.py:48] torch.compile took 6.75 s in total
INFO 2032.000 [kv_cache_utils.py:1316] GPU KV cache size: 87,376 tokens
INFO 2035.500 [gpu_model_runner.py:5780] Graph capturing finished in 3 secs, took 0.32 GiB
"""
"""The same of vLLM 0.22 on a GPU, by the texts in its source."""


def test_the_phases_of_a_start_are_read_from_its_stamps():
    """On a CPU the run that compiles is timed; there are no graphs."""
    phases = vllm_log.phases(ON_A_CPU, 1000.0)
    assert phases == pytest.approx({"import": 23.14, "load": 0.206, "compile": 8.29})


def test_on_a_gpu_there_are_compilation_and_capture_too():
    """What torch.compile says of itself counts, and graphs are captured once the cache is there."""
    phases = vllm_log.phases(ON_A_GPU, 2000.0)
    assert phases == pytest.approx({"import": 20.0, "load": 2.25, "compile": 6.75, "capture": 3.5})


@pytest.mark.parametrize("log", ["", "no stamp at all", ON_A_CPU.partition("INFO 1023")[0]])
def test_a_phase_that_was_not_told_is_missing(log):
    """Never 0."""
    assert vllm_log.phases(log, 0.0) == {}


def test_what_was_resolved_on_a_cpu_is_read_back():
    """Nothing is said of what this start has not, as a quantization."""
    assert (vllm_log.device(ON_A_CPU), vllm_log.dtype(ON_A_CPU)) == ("cpu", "float32")
    assert vllm_log.cache_tokens(ON_A_CPU) == 524_288
    assert vllm_log.settings(ON_A_CPU) == {
        "tensor_parallel": 1,
        "load_format": "auto",
        "enforce_eager": False,
        "chunked_prefill": True,
        "prefix_caching": False,
        "kv_cache_dtype": "auto",
        "compile": True,
        "graphs": "none",
    }


def test_what_was_resolved_on_a_gpu_is_read_back():
    """Attention backend, graphs and their sizes, quantization, tokens of a step."""
    assert (vllm_log.device(ON_A_GPU), vllm_log.dtype(ON_A_GPU)) == ("cuda", "bfloat16")
    settings = vllm_log.settings(ON_A_GPU)
    assert settings["attention"] == "FLASH_ATTN"
    assert (settings["graphs"], settings["graph_sizes"]) == ("full_and_piecewise", "5, up to 16")
    assert (settings["quantization"], settings["max_num_batched_tokens"]) == ("fp8", 8192)


def test_the_kv_cache_is_read_from_the_metrics():
    """Blocks and their size; a number that isn't there is missing."""
    metrics = 'vllm:num_requests_running{engine="0"} 0.0\nvllm:cache_config_info{block_size="128",num_cpu_blocks='
    assert vllm_log.cache(f'{metrics}"None",num_gpu_blocks="4096"}} 1.0\n') == {"kv_blocks": 4096, "block_size": 128}
    assert vllm_log.cache(f'{metrics}"None",num_gpu_blocks="None"}} 1.0\n') == {"block_size": 128}
    assert vllm_log.cache("") == {}


@pytest.mark.parametrize(
    ("log", "why"),
    [
        ("usage: …\napi_server.py: error: unrecognized arguments: --foo\n", "unrecognized arguments: --foo"),
        (
            """ERROR 1.000 [core.py:1510] EngineCore failed to start.
Traceback (most recent call last):
ValueError: the KV cache is too small
Traceback (most recent call last):
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
""",
            "ValueError: the KV cache is too small",
        ),
        (
            "(EngineCore pid=7) ERROR 11-22 00:05:09 [core.py:9] torch.OutOfMemoryError: CUDA out of memory.\n",
            "OutOfMemoryError: CUDA out of memory.",
        ),
        (
            """pydantic_core._pydantic_core.ValidationError: 1 validation error for VllmConfig
  Value error, torch.float32 is not supported for fp8. [type=value_error, input_value=…]
""",
            "Value error, torch.float32 is not supported for fp8.",
        ),
        ("WARNING 1.000 [x.py:1] errors like `OSError: too many files`\nall is well\n", None),
    ],
    ids=["argument", "first-of-several", "prefixed", "pydantic", "none"],
)
def test_a_failed_start_is_explained_by_its_first_error(log, why):
    """Each process says that another one failed; the first that raised knows why."""
    assert vllm_log.why(log) == why


def test_the_log_is_asked_for_in_the_format_that_is_read(capsys):
    """Python's own logging takes the configuration, and its stamps are found again."""
    began_s = time.time() - 1  # a stamp is rounded
    logging.config.dictConfig(dict(vllm_log.LOGGING))
    try:
        logging.getLogger("vllm.worker").info("Starting to load model %s...", "tiny")
    finally:
        logging.getLogger("vllm").handlers.clear()
    phases = vllm_log.phases(capsys.readouterr().out, began_s)
    assert phases["import"] == pytest.approx(1, abs=5)


# -- options


def test_arguments_are_written_as_on_vllms_command_line():
    """A flag that is off has vLLM's own `--no-`."""
    given = {"max_model_len": 1024, "enforce_eager": True, "enable_chunked_prefill": False, "quantization": "fp8"}
    written = ["--max-model-len", "1024", "--enforce-eager", "--no-enable-chunked-prefill", "--quantization", "fp8"]
    assert command_line(given) == written


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"port": 8000}, "port is chosen by the engine"),
        ({"api_server_count": 4}, "api_server_count is chosen by the engine"),
        ({"served-model-name": "x"}, "served_model_name is chosen by the engine"),
        ({"Max Len": 1}, "'Max Len' is no argument of vLLM"),
        ({"device": "tpu"}, "it knows auto, cpu, cuda"),
        ({"device_index": True}, "must be of type int"),
    ],
)
def test_an_option_that_cannot_be_is_refused_before_anything_starts(options, words):
    """What the engine needs to choose itself, what is no argument, and what its own options don't take."""
    with pytest.raises(EngineUnavailable, match=re.escape(words)):
        create(EngineSpec("vllm", "tiny-2x128", options=options))


CACHE = "--kv-cache-memory-bytes"


def words_of(tmp_path, boards=(), **options):
    """The command line of a server."""
    engine = VLLM(EngineSpec("vllm", "tiny-2x128", options=options))
    return engine._command_line(tmp_path, SHAPES["tiny-2x128"], boards)


def follows(words, name):
    return words[words.index(name) + 1]


def test_launches_are_alike_unless_they_are_asked_not_to_be(tmp_path, monkeypatch):
    """The KV cache has a fixed memory, prefix caching is off, and an option outdoes each of it."""
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    plain = words_of(tmp_path)
    assert follows(plain, CACHE) == str(CPU_CACHE_BYTES)
    assert (follows(plain, "--max-num-seqs"), follows(plain, "--generation-config")) == ("256", "vllm")
    assert {"--no-enable-prefix-caching", "--skip-tokenizer-init"} < set(plain)
    other = words_of(tmp_path, kv_cache_memory_bytes="2G", enable_prefix_caching=True, max_num_seqs=8)
    assert (follows(other, CACHE), follows(other, "--max-num-seqs")) == ("2G", "8")
    assert "--enable-prefix-caching" in other
    assert follows(words_of(tmp_path, [Board("0", "GPU-1", 2 * GIB)], **{"kv-cache-memory-bytes": "8M"}), CACHE) == "8M"
    own_way = words_of(tmp_path, gpu_memory_utilization=0.5)
    assert CACHE not in own_way
    assert follows(own_way, "--gpu-memory-utilization") == "0.5"


def test_a_tokenizer_is_used_where_the_model_has_one(tmp_path):
    """As it is by those who serve that model."""
    (tmp_path / "tokenizer.json").touch()
    assert "--skip-tokenizer-init" not in words_of(tmp_path)


def test_what_a_gpu_has_left_is_for_the_kv_cache(tmp_path):
    """In whole GiB, so that it is the same in each launch; what can't be known is asked for."""
    board = Board("0", "GPU-1", 80 * GIB)
    assert follows(words_of(tmp_path, [board]), CACHE) == str(68 * GIB)
    assert _cache_bytes(SHAPES["opt-13b"], "float16", board.memory_bytes, 1) == 45 * GIB
    assert _cache_bytes(SHAPES["opt-13b"], "float32", board.memory_bytes, 1) == 21 * GIB
    with pytest.raises(EngineUnavailable, match="leaves no GiB of 24 GiB"):
        _cache_bytes(SHAPES["opt-13b"], "auto", 24 * GIB, 1)
    with pytest.raises(EngineUnavailable, match="kv_cache_memory_bytes=16G"):
        _cache_bytes(None, "auto", board.memory_bytes, 1)


@pytest.fixture
def smi(tmp_path, monkeypatch):
    """An nvidia-smi that lists three boards."""
    program = tmp_path / "nvidia-smi"
    rows = "".join(f"{index}, GPU-{index}{index}ab-cd, {81_920 + index}\\n" for index in range(3))
    program.write_text(f"#!{sys.executable}\nprint({rows!r}.replace('\\\\n', chr(10)), end='')\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.usefixtures("smi")
@pytest.mark.parametrize(
    ("visible", "options", "seen"),
    [
        (None, {}, "0"),
        (None, {"device_index": 2}, "2"),
        (None, {"device_index": 1, "tensor_parallel_size": 2}, "1,2"),
        ("2,0", {}, "2"),
        ("GPU-22ab-cd, GPU-11ab", {"device_index": 1}, "1"),
    ],
)
def test_the_server_sees_its_boards_by_their_numbers(visible, options, seen, monkeypatch):
    """However they were named: vLLM can't read a UUID."""
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    engine = VLLM(EngineSpec("vllm", "tiny-2x128", options=options))
    chosen = engine._visible(_boards())
    try:
        assert engine._variables(chosen)["CUDA_VISIBLE_DEVICES"] == seen
    finally:
        engine.stop()


@pytest.mark.usefixtures("smi")
def test_a_board_that_is_not_there_is_an_error(monkeypatch):
    """Also of a model that is split over more than there are."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    engine = VLLM(EngineSpec("vllm", "tiny-2x128", options={"tensor_parallel_size": 4}))
    with pytest.raises(EngineUnavailable, match="needs the GPUs 0 to 3, and 3 can be seen"):
        engine._visible(_boards())


def test_without_nvidia_smi_there_is_no_board(tmp_path, monkeypatch):
    """As on a machine without a driver."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert _boards() == ()


@pytest.mark.parametrize("name", ["VLLM_API_KEY", "VLLM_LOGGING_LEVEL", "VLLM_CACHE_ROOT", "VLLM_NO_USAGE_STATS"])
def test_what_chooses_no_kernel_is_not_recorded(name):
    """Least of all a key."""
    assert NO_KERNELS.match(name)
    assert not NO_KERNELS.match("VLLM_USE_TRITON_AWQ")
