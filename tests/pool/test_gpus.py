"""Where the replicas of a pool run: cores, GPUs, shares of memory; what can't be is said before anything starts."""

from dataclasses import replace

import pytest
from nvml_fixtures import driver, stub  # noqa: F401

from pytest_slmperf.core.devices.gpus import Gpu
from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.errors import EngineUnavailable, UsageError
from pytest_slmperf.core.pool import Pool
from pytest_slmperf.meters import boards
from pytest_slmperf.pool.devices import Host, placements, split_cores

GIB = 2**30


def card(index: int = 0, name: str = "H100", gib: int = 80, **told: object) -> Gpu:
    facts = {"compute_mode": "default", "power_limit_w": 700.0, "free_bytes": gib * GIB, **told}
    return Gpu(index, f"GPU-{index}", name, gib * GIB, **facts)


FOUR = Host("cuda", cores=(0, 1, 2, 3), gpus=tuple(map(card, range(4))))
SPEC = EngineSpec("transformers", "opt-125m", "float16", options={"device": "cuda"})
VLLM = EngineSpec("vllm", "opt-1.3b", "float16", options={"device": "cuda"})


def visible(*found) -> list[str]:
    return [one.environment["CUDA_VISIBLE_DEVICES"] for one in found]


@pytest.mark.parametrize(
    ("pool", "options", "names", "labels"),
    [
        (Pool(2), {}, ["0", "0"], ["GPU 0", "GPU 0"]),
        (Pool(2), {"device": "cuda:2"}, ["2", "2"], ["GPU 2", "GPU 2"]),
        (Pool(2, "gpus"), {}, ["0", "1"], ["GPU 0", "GPU 1"]),
        (Pool(3, "gpus"), {"device_index": 1}, ["1", "2", "3"], ["GPU 1", "GPU 2", "GPU 3"]),
        (Pool(2, "gpus"), {"tensor_parallel_size": 2}, ["0,1", "2,3"], ["GPU 0, 1", "GPU 2, 3"]),
        (Pool(2), {"tensor-parallel-size": 2}, ["0,1", "0,1"], ["GPU 0, 1", "GPU 0, 1"]),
        (Pool(2, "mps"), {"device_index": 3}, ["0", "0"], ["GPU 3, MPS", "GPU 3, MPS"]),
    ],
)
def test_replicas_see_their_gpus_by_number(pool, options, names, labels):
    """As every engine reads it; under MPS the server counts the pool's GPUs from 0."""
    found = placements(pool, replace(SPEC, options={**SPEC.options, **options}), FOUR)
    assert visible(*found) == names
    assert [one.label for one in found] == labels
    assert {one.environment["CUDA_DEVICE_ORDER"] for one in found} == {"PCI_BUS_ID"}


def test_a_replica_counts_its_own_gpu_from_zero_and_the_books_have_its_uuid():
    """Whatever number it had in the options."""
    (one,) = placements(Pool(1, "gpus"), replace(SPEC, options={"device": "cuda:2", "device_index": 2}), FOUR)
    assert one.options == {"device": "cuda", "device_index": 0}
    assert one.gpus == ("GPU-2",)


def test_only_what_cuda_may_see_is_used_in_its_order():
    """By numbers or UUIDs."""
    found = placements(Pool(2, "gpus"), SPEC, replace(FOUR, visible=(3, "GPU-1")))
    assert visible(*found) == ["3", "1"]


@pytest.mark.parametrize(
    ("pool", "host", "said"),
    [
        (Pool(5, "gpus"), FOUR, r"5 replicas \(gpus\) need the GPUs 0 to 4, and 4 can be seen here"),
        (Pool(2), Host("cuda", gpus=(card(compute_mode="exclusive process"),)), "one process alone.*the kind mps"),
        (Pool(2, "mps"), Host("cuda", gpus=(card(compute_mode="prohibited"),)), "lets no process use it"),
        (Pool(1, power_limit_w=300), FOUR, r"of GPU 0 \(H100\) is 700 W\. It is never set from here: .*-limit=300"),
        (Pool(2, memory_bytes=100 * GIB), FOUR, "a budget of 100 GiB of memory is more than the GPU has: 80 GiB"),
        (Pool(2), Host("cuda", gpus=(Gpu(0, "GPU-0", "H100"),)), "doesn't tell a GPU's memory"),
    ],
)
def test_what_the_machine_has_not_is_said_before_anything_starts(pool, host, said):
    """With the way out."""
    spec = VLLM if pool.memory_bytes else SPEC
    with pytest.raises(EngineUnavailable, match=said):
        placements(pool, spec, replace(host, cores=()))


@pytest.mark.parametrize(
    ("pool", "mode"),
    [(Pool(2, "mps"), "exclusive process"), (Pool(2, "gpus"), "exclusive process"), (Pool(1), "default")],
)
def test_an_exclusive_board_is_one_processs_or_that_of_mps(pool, mode):
    """Where only one process uses it, the mode is no obstacle."""
    host = Host("cuda", gpus=tuple(card(index, compute_mode=mode) for index in range(2)))
    assert len(placements(pool, SPEC, host)) == pool.replicas


@pytest.mark.parametrize("kind", ["mps", "mig", "gpus"])
def test_a_kind_of_gpus_is_refused_elsewhere(kind):
    """And a budget of a GPU's, too."""
    cpu = EngineSpec("ctranslate2", "tiny-2x64")
    with pytest.raises(UsageError, match=f"kind {kind} needs a GPU"):
        placements(Pool(2, kind), cpu, Host("cpu", cores=(0, 1)))
    with pytest.raises(UsageError, match="are a GPU's"):
        placements(Pool(2, memory_bytes=GIB), cpu, Host("cpu", cores=(0, 1)))


@pytest.mark.parametrize(
    ("options", "replicas", "budget", "share"),
    [
        ({}, 1, None, {}),
        ({}, 2, None, {"kv_cache_memory_bytes": 30 * GIB}),
        ({}, 4, None, {"kv_cache_memory_bytes": 12 * GIB}),
        ({}, 2, 40 * GIB, {"kv_cache_memory_bytes": 12 * GIB}),
        ({}, 1, 40 * GIB, {"kv_cache_memory_bytes": 30 * GIB}),
        ({"gpu_memory_utilization": 0.9}, 2, None, {"gpu_memory_utilization": 0.45}),
        ({"gpu-memory-utilization": 0.9}, 1, 40 * GIB, {"gpu-memory-utilization": 0.45}),
        ({"kv_cache_memory_bytes": "16G"}, 2, None, {"kv_cache_memory_bytes": 8 * GIB}),
        ({"kv_cache_memory_bytes": 16_000_000_000}, 4, None, {"kv_cache_memory_bytes": 4_000_000_000}),
    ],
)
def test_replicas_of_vllm_get_a_fixed_share_of_a_gpu(options, replicas, budget, share):
    """What the options give one engine, the replicas divide; without any, what is left of a share beside weights,
    context and graphs.
    """
    spec = replace(VLLM, options={**VLLM.options, **options})
    found = placements(Pool(replicas, memory_bytes=budget), spec, replace(FOUR, cores=()))
    assert [dict(one.options) for one in found] == [share] * replicas


def test_each_gpu_of_its_own_is_a_whole_one_and_unlike_ones_give_what_the_smallest_has():
    """The same share for all, or their KV caches would differ; unlike boards keep their labels."""
    host = Host("cuda", gpus=(card(0), card(1, "A100", 40)))
    assert [dict(one.options) for one in placements(Pool(2, "gpus"), VLLM, Host("cuda", gpus=(card(0), card(1))))] == [
        {},
        {},
    ]
    unlike = placements(Pool(2, "gpus"), VLLM, host)
    assert [dict(one.options) for one in unlike] == [{"kv_cache_memory_bytes": 30 * GIB}] * 2
    assert [one.label for one in unlike] == ["GPU 0 (H100)", "GPU 1 (A100)"]


def test_a_budget_of_other_engines_is_kept_by_mps_alone():
    """Its server limits what a client may take; nothing else does."""
    with pytest.raises(UsageError, match="nothing holds transformers to memory_bytes"):
        placements(Pool(2, memory_bytes=40 * GIB), SPEC, replace(FOUR, cores=()))
    one, _ = placements(Pool(2, "mps", memory_bytes=40 * GIB), SPEC, replace(FOUR, cores=()))
    assert one.environment["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] == "0=20480M"
    one, _ = placements(Pool(2, "mps"), SPEC, replace(FOUR, cores=()))
    assert "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT" not in one.environment


@pytest.mark.parametrize(
    ("spec", "pool", "host", "said"),
    [
        (replace(SPEC, model="opt-13b"), Pool(4), Host("cuda", gpus=(card(),)), "4 replicas.*23.9 GiB.*3 would fit"),
        (
            replace(SPEC, model="opt-13b"),
            Pool(2, "mps"),
            Host("cuda", gpus=(card(free_bytes=20 * GIB),)),
            "the GPU has 20 GiB for them: not even one fits",
        ),
        (
            EngineSpec("ctranslate2", "opt-1.3b"),
            Pool(4),
            Host("cpu", cores=(0, 1, 2, 3), memory_free_bytes=16 * GIB),
            "for 4 replicas.*this run has 16 GiB",
        ),
        (replace(VLLM, model="opt-6.7b"), Pool(5), Host("cuda", gpus=(card(),)), "leaves no GiB of 16 GiB for a KV"),
    ],
)
def test_too_little_memory_for_so_many_is_said_before_anything_starts(spec, pool, host, said):
    """And how many would fit."""
    with pytest.raises(EngineUnavailable, match=said):
        placements(pool, spec, host)


NODES = {core: core // 4 for core in range(8)}


@pytest.mark.parametrize(
    ("cores", "replicas", "threads", "split"),
    [
        ((), 2, 1, [(), ()]),
        ((2, 3), 2, 1, [(2,), (3,)]),
        (tuple(range(8)), 2, 4, [(0, 1, 2, 3), (4, 5, 6, 7)]),
        (tuple(range(8)), 2, 3, [(0, 1, 2), (4, 5, 6)]),
        ((0, 1, 2, 4, 5, 6), 3, 2, [(0, 1), (4, 5), (2, 6)]),
    ],
)
def test_replicas_have_cores_of_their_own_on_one_node_where_they_fit(cores, replicas, threads, split):
    """A thread far from its memory is slower."""
    assert split_cores(Host("cpu", cores=cores, nodes=NODES), replicas, threads) == split


def test_a_physical_core_is_one_replicas_where_that_can_be():
    """Two hardware threads of one core share its units."""
    host = Host("cpu", cores=(0, 1, 2, 3), siblings={0: frozenset({0, 2}), 1: frozenset({1, 3})})
    assert split_cores(host, 2, 2) == [(0, 2), (1, 3)]


def test_more_replicas_than_cores_are_refused():
    """They would wait for each other."""
    with pytest.raises(UsageError, match=r"3 replicas of 1 thread need 3 cores, and 2 can be used"):
        split_cores(Host("cpu", cores=(0, 1)), 3, 1)


def test_the_gpus_are_as_the_driver_tells_them_and_a_lost_one_is_none(driver):  # noqa: F811 - a fixture's name
    """Unlike boards, one in exclusive mode with a lower power limit."""
    driver(
        "boards 3",
        "board 1",
        "name NVIDIA A100-SXM4-40GB",
        "memory_total 40960",
        "compute_mode 3",
        "default_power_limit 400",
        "board 2",
        "lost 0",
    )
    one, two = boards.gpus()
    assert (one.index, one.name, one.mig, one.slices) == (0, "NVIDIA H100 80GB HBM3", False, ())
    assert (two.name, two.memory_bytes, two.compute_mode) == ("NVIDIA A100-SXM4-40GB", 40 * GIB, "exclusive process")
    assert two.power_limit_w == 400
