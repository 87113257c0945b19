"""What bounds a case, held to what was measured elsewhere and to cases whose bound is known."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_slmperf.core.datasheets import BOARDS, roof_of
from pytest_slmperf.core.devices.board import BoardFacts
from pytest_slmperf.core.explain import Bound, explain, place_of, requests_of, shape_named
from pytest_slmperf.core.memory import MIB
from pytest_slmperf.core.roofline import Reading, Roof, limit
from pytest_slmperf.core.sample import Measurement, Sample
from pytest_slmperf.core.shapes import SHAPES

GPU_KEY = {"engine": "vllm", "device": "cuda", "dtype": "float16", "threads": 1}
CPU_KEY = {"engine": "ctranslate2", "device": "cpu", "dtype": "float32", "threads": 1, "workload": "static-batch"}
H100, L4 = roof_of("NVIDIA H100 80GB HBM3"), roof_of("NVIDIA L4")
CORE = Roof((Reading(16 * MIB, 30e9), Reading(256 * MIB, 12e9)), {"float32": 100e9}, 0.2, "measured")


def measured(key, model, output_throughput, *, prompt=128, output=128, watts=None, limit_w=None, peak=None):
    """A measurement with these medians."""
    values = {
        "output_throughput": output_throughput,
        "total_token_throughput": output_throughput * (prompt + output) / output,
        "request_throughput": output_throughput / output,
        "mean_power_w": watts,
        "peak_memory_bytes": peak,
    }
    samples = {name: Sample.of([[value]]) for name, value in values.items() if value}
    boards = {"GPU-1": BoardFacts("counter", limit_w)} if watts else {}
    key = {**key, "model": model, "prompt_tokens": prompt, "output_tokens": output}
    return Measurement(f"decode/{model}/batch=1", key, samples, boards=boards)


def explained(measurement, batch, roof):
    """What is said of a batch of this size."""
    return explain(measurement, {"model": "any", "batch_size": batch}, roof)


@given(st.sampled_from(sorted(SHAPES)), st.integers(1, 512), st.integers(2, 500), st.integers(2, 500))
def test_an_engine_at_the_limit_is_at_all_of_it(model, batch, prompt, output):
    """Measured exactly at what the device allows, a case is at 100 %, bound by what sets the limit, and differs from
    nothing.
    """
    least = limit(SHAPES[model], "float16", L4, requests=batch, prompt_tokens=prompt, output_tokens=output)
    rate = batch * output / least.least_s
    found = explained(measured(GPU_KEY, model, rate, prompt=prompt, output=output), batch, L4)
    assert found.limit_share == pytest.approx(1)
    assert found.limit_output_throughput == pytest.approx(rate)
    assert found.bound == found.limit == (Bound.BANDWIDTH if least.set_by_reading else Bound.COMPUTE)
    assert max(found.bandwidth_share, found.compute_share) <= 1 + 1e-9
    assert found.differs == ()


def test_one_request_is_bound_by_bandwidth_and_a_long_prompt_by_compute():
    """A step of one request reads all weights for one token; a prompt of thousands computes with what it has read."""
    reading = explained(measured(GPU_KEY, "opt-1.3b", 800, prompt=16, output=256), 1, H100)
    assert (reading.bound, reading.limit) == (Bound.BANDWIDTH, "bandwidth")
    computing = explained(measured(GPU_KEY, "opt-1.3b", 300, prompt=1900, output=2), 16, H100)
    assert (computing.bound, computing.limit) == (Bound.COMPUTE, "compute")


# From arXiv-published and public raw results: board, model, batch, prompt, output, tok/s, W.
HOST_BOUND = [  # ML.ENERGY v2, vLLM 0.5.4: its API server was the limit
    ("NVIDIA A100-SXM4-40GB", "gemma-2-2b-it", 128, 200, 484, 1_762, 159),
    ("NVIDIA A100-SXM4-40GB", "gemma-2-2b-it", 512, 200, 484, 1_818, 146),
    ("NVIDIA H100 80GB HBM3", "gemma-2-2b-it", 512, 200, 484, 2_183, 218),
]
NOT_HOST_BOUND = [  # TokenPowerBench: Llama-3.2-3B
    ("NVIDIA H100 NVL", "Llama-3.2-3B", 32, 200, 200, 5_741, 287),
    ("NVIDIA H100 NVL", "Llama-3.2-3B", 64, 200, 200, 10_018, 283),
]


def explained_row(row):
    """A row of the tables above, with a power limit as the datasheet has it."""
    board, model, batch, prompt, output, rate, watts = row
    roof = roof_of(board)
    given_ = measured(GPU_KEY, model, rate, prompt=prompt, output=output, watts=watts, limit_w=roof.power_w)
    return explained(given_, batch, roof)


@pytest.mark.parametrize("row", HOST_BOUND)
def test_little_power_at_a_large_batch_is_the_host(row):
    """As where a server's own Python kept an A100 at 150 of its 400 W."""
    assert explained_row(row).bound is Bound.HOST
    assert explained_row(row).limit_share < 0.5


@pytest.mark.parametrize("row", NOT_HOST_BOUND)
def test_much_power_at_a_large_batch_is_not(row):
    """A board at seven tenths of its power works."""
    assert explained_row(row).bound is not Bound.HOST


def test_little_power_is_nothing_at_a_small_batch_or_without_a_meter():
    """One request of a small model draws little anyhow; and who doesn't measure doesn't accuse."""
    roof = roof_of("NVIDIA A100-SXM4-40GB")
    quiet = measured(GPU_KEY, "gemma-2-2b", 20, watts=100, limit_w=400)
    assert explained(quiet, 1, roof).bound is Bound.NEITHER
    assert explained(measured(GPU_KEY, "gemma-2-2b", 600), 64, roof).bound is Bound.NEITHER


def test_a_lower_power_limit_counts():
    """A board that may draw 200 W and draws 180 waits for nobody."""
    roof = roof_of("NVIDIA A100-SXM4-40GB")
    capped = explained(measured(GPU_KEY, "gemma-2-2b", 600, watts=180, limit_w=200), 64, roof)
    assert capped.power_share == pytest.approx(0.9)
    assert capped.bound is Bound.NEITHER


def test_more_than_the_limit_allows_is_said():
    """By more than the roof's error: then the roof is wrong, or the model is."""
    least = limit(SHAPES["opt-125m"], "float32", CORE, requests=1, prompt_tokens=128, output_tokens=128)
    slower = measured({**CPU_KEY, "engine": "transformers"}, "opt-125m", 1.1 * 128 / least.least_s)
    faster = measured({**CPU_KEY, "engine": "transformers"}, "opt-125m", 1.4 * 128 / least.least_s)
    assert explained(slower, 1, CORE).differs == ()
    (said,) = explained(faster, 1, CORE).differs
    assert said.startswith("it was measured at 140% of its bandwidth limit (measured), whose error is 20%")


def test_a_peak_far_from_its_model_is_said():
    """CTranslate2's peak on a CPU is predicted; a quarter more than that is no rounding."""
    near = explained(measured(CPU_KEY, "tiny-2x128", 10_000, prompt=32, output=32), 1, CORE)
    assert near.predicted_peak_bytes is not None
    near_peak = measured(CPU_KEY, "tiny-2x128", 10_000, prompt=32, output=32, peak=1.1 * near.predicted_peak_bytes)
    far_peak = measured(CPU_KEY, "tiny-2x128", 10_000, prompt=32, output=32, peak=3 * near.predicted_peak_bytes)
    assert explained(near_peak, 1, CORE).differs == ()
    (said,) = explained(far_peak, 1, CORE).differs
    assert said.startswith("peak_memory_bytes is ")


def test_replicas_share_a_device_and_read_their_own_weights():
    """Two replicas that each have half of the device and of the requests reach half of what one reads per token."""
    roof = L4
    one = explained(measured(GPU_KEY, "opt-1.3b", 1_000), 8, roof)
    two = explained(measured({**GPU_KEY, "replicas": 2}, "opt-1.3b", 1_000), 8, roof)
    assert two.weight_bytes == 2 * one.weight_bytes
    assert two.cache_bytes == one.cache_bytes
    threads = explained(measured({**GPU_KEY, "replicas": 2, "pool": "threads"}, "opt-1.3b", 1_000), 8, roof)
    assert threads.weight_bytes == one.weight_bytes
    assert threads.bandwidth_share == two.bandwidth_share
    assert two.bandwidth_share > 1.5 * one.bandwidth_share


@pytest.mark.parametrize(
    ("key", "model"),
    [
        ({**GPU_KEY, "dtype": "fp4"}, "opt-125m"),
        (GPU_KEY, "a-model-of-ours"),
        ({**GPU_KEY, "setting.quantization": "awq"}, "opt-125m"),
    ],
)
def test_what_nobody_knows_is_not_explained(key, model):
    """Another shape, another type, weights of four bits."""
    assert explained(measured(key, model, 100), 1, L4) is None


def test_without_throughput_there_is_nothing_to_explain():
    """A case that is void has no samples."""
    void = replace(measured(GPU_KEY, "opt-125m", 100), samples={})
    assert explained(void, 1, L4) is None


def test_traffic_has_as_many_requests_as_were_under_way():
    """What the engine says of its batch counts, then the mean of those under way, then the place on the axis."""
    base = measured(GPU_KEY, "opt-125m", 100)
    rate = {"model": "opt-125m", "request_rate": 4.0}
    under_way = {**base.samples, "mean_concurrency": Sample.of([[7.5]])}
    assert requests_of(base, rate) is None
    assert requests_of(replace(base, samples=under_way), rate) == 7.5
    running = {**under_way, "mean_running_batch": Sample.of([[5.0]])}
    assert requests_of(replace(base, samples=running), rate) == 5.0
    assert requests_of(base, {"model": "opt-125m", "concurrency": 16}) == 16


def test_a_batch_for_each_replica_is_multiplied():
    """`batch-each=32` of two replicas are 64 requests."""
    each = replace(
        measured({**GPU_KEY, "replicas": 2}, "opt-125m", 100), case="decode/opt-125m/replicas=2/batch-each=32"
    )
    assert requests_of(each, {"model": "opt-125m", "replicas": 2, "batch_size": 32}) == 64
    assert requests_of(replace(each, case="decode/opt-125m/replicas=2/batch=32"), {"batch_size": 32}) == 32


def test_checkpoints_have_the_shape_of_their_family():
    """Whatever they were tuned for."""
    assert shape_named("Qwen2.5-0.5B-Instruct") is SHAPES["qwen2.5-0.5b"]
    assert shape_named("gemma-3-1b-it") is SHAPES["gemma-3-1b"]
    assert shape_named("opt-125m") is SHAPES["opt-125m"]
    assert shape_named("Llama-3.1-8B") is None


@pytest.mark.parametrize(
    ("device", "board", "count"),
    [
        ("NVIDIA H100 80GB HBM3", "H100 80GB HBM3", 1),
        ("NVIDIA A100 80GB PCIe", "A100 80GB PCIe", 1),
        ("2 x NVIDIA L40S", "L40S", 2),
        ("NVIDIA GeForce RTX 4090", "RTX 4090", 1),
        ("Tesla V100-SXM2-32GB", "V100-SXM2-32GB", 1),
    ],
)
def test_a_board_is_found_by_its_drivers_name(device, board, count):
    """Several alike have the sum of all."""
    row = next(one for one in BOARDS if one.name == board)
    roof = roof_of(device)
    assert roof.source == f"datasheet of {board}"
    assert roof.power_w == count * row.watts
    assert roof.bytes_per_s(1e9) == pytest.approx(count * row.gb_per_s * 1e9)
    assert roof.flops_of("float16") == pytest.approx(count * row.tflops_16 * 1e12)


@pytest.mark.parametrize(
    "device",
    ["NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA A10G", "NVIDIA L4 and NVIDIA T4", "simulated NVIDIA L4", "Xeon L4"],
)
def test_what_no_datasheet_is_of_has_no_roof(device):
    """A slice, a relative of another board's name, a pair of unlike ones, a stand-in, a CPU."""
    assert roof_of(device) is None


def test_every_row_is_plausible():
    """A datasheet's figures grow together: 8 bits are not slower than 16, nor 16 than 32."""
    assert len({board.name for board in BOARDS}) == len(BOARDS)
    for board in BOARDS:
        assert board.tflops_32 < board.tflops_16 <= (board.tops_8 or math.inf)
        assert 50 < board.watts < 1_500
        assert 200 < board.gb_per_s < 10_000


def test_where_an_engine_is_says_which_roof_it_is_under():
    """Cores of all replicas; a GPU; nothing of what may be on another machine."""
    assert place_of({**CPU_KEY, "threads": 2, "replicas": 2}) == "4 cores"
    assert place_of(CPU_KEY) == "1 core"
    assert place_of({**GPU_KEY, "device": "cuda:1"}) == "gpu"
    assert place_of({**CPU_KEY, "pool": "ray"}) is None
    assert place_of({"device": "remote:10.0.0.1:80"}) is None
