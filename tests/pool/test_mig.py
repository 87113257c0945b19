"""MIG slices that exist: found through the driver, labelled, used, and never made."""

import pytest
from nvml_fixtures import driver, stub  # noqa: F401

from pytest_slmperf.core.devices.gpus import Gpu, Slice
from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.errors import EngineUnavailable, UsageError
from pytest_slmperf.core.pool import Pool
from pytest_slmperf.meters import boards
from pytest_slmperf.pool import mig
from pytest_slmperf.pool.devices import Host, placements

GIB = 2**30
BOARD = "GPU-00000000-0000-4000-8000-000000000000"


def part(number: int, profile: str = "1g.10gb", board: str = BOARD) -> Slice:
    return Slice(f"MIG-{number}", profile, board, 10 * GIB)


def gpu(*slices: Slice, index: int = 0) -> Gpu:
    return Gpu(index, BOARD, "H100", 80 * GIB, mig=bool(slices), slices=slices)


@pytest.mark.parametrize(
    ("slices", "replicas", "taken"),
    [
        ([part(1), part(2), part(3)], 2, ["MIG-1", "MIG-2"]),
        ([part(1, "3g.40gb"), part(2), part(3)], 2, ["MIG-2", "MIG-3"]),
        ([part(1, "3g.40gb"), part(2)], 2, ["MIG-1", "MIG-2"]),
    ],
    ids=["the first", "alike", "unlike where there are no others"],
)
def test_replicas_take_slices_in_order_alike_ones_where_there_are_enough(slices, replicas, taken):
    """A slower slice would make the others wait for the end of a batch."""
    assert [one.uuid for one in mig.choose([gpu(*slices)], replicas)] == taken


def test_too_few_slices_are_told_with_the_command_that_makes_some():
    """It is never run from here."""
    with pytest.raises(
        EngineUnavailable, match=r"need as many MIG slices, and there are 1; MIG is off on GPU 1\. They"
    ):
        mig.choose([gpu(part(1)), gpu(index=1)], 2)


@pytest.fixture
def two_slices(driver):  # noqa: F811 - a fixture's name
    """The driver of a board with MIG on and two instances."""
    driver("mig 2")
    return boards.gpus()


def test_slices_are_found_and_named_as_cuda_takes_them(two_slices):
    """By their UUIDs; the books name the board, whose joules they share."""
    spec = EngineSpec("transformers", "opt-125m", options={"device": "cuda"})
    one, two = placements(Pool(2, "mig"), spec, Host("cuda", gpus=two_slices))
    assert (one.label, two.label) == ("GPU 0, MIG 1g.10gb", "GPU 0, MIG 1g.10gb")
    assert one.environment["CUDA_VISIBLE_DEVICES"].startswith("MIG-")
    assert one.environment["CUDA_VISIBLE_DEVICES"] != two.environment["CUDA_VISIBLE_DEVICES"]
    assert one.gpus == two.gpus == (BOARD,)


def test_slices_that_cuda_may_see_are_those_that_it_names(two_slices):
    """A job that was given one slice takes no other's."""
    second = two_slices[0].slices[1].uuid
    spec = EngineSpec("transformers", "opt-125m", options={"device": "cuda"})
    host = Host("cuda", gpus=two_slices, visible=(second,))
    (only,) = placements(Pool(1, "mig"), spec, host)
    assert only.environment["CUDA_VISIBLE_DEVICES"] == second
    with pytest.raises(EngineUnavailable, match="there are 1"):
        placements(Pool(2, "mig"), spec, host)


def test_an_engine_that_reads_only_numbers_cannot_have_a_slice(two_slices):
    """vLLM takes the names in CUDA_VISIBLE_DEVICES for numbers."""
    spec = EngineSpec("vllm", "opt-125m", options={"device": "cuda"})
    with pytest.raises(EngineUnavailable, match="vllm names GPUs by number, and a MIG slice has only a UUID"):
        placements(Pool(2, "mig"), spec, Host("cuda", gpus=two_slices))


@pytest.mark.parametrize(
    ("engine", "kind", "said"),
    [("transformers", "mps", "a daemon of MPS for one is not made here"), ("vllm", "processes", "has only a UUID")],
)
def test_what_a_visible_slice_cannot_hold_is_refused(two_slices, engine, kind, said):
    """Where CUDA_VISIBLE_DEVICES names one, replicas may share it as plain processes of an engine that reads UUIDs."""
    host = Host("cuda", gpus=two_slices, visible=(two_slices[0].slices[1].uuid,))
    spec = EngineSpec("transformers", "opt-125m", options={"device": "cuda"})
    shared = placements(Pool(2), spec, host)
    assert [one.label for one in shared] == ["MIG slice 1g.10gb"] * 2
    assert {one.environment["CUDA_VISIBLE_DEVICES"] for one in shared} == set(host.visible)
    with pytest.raises(EngineUnavailable, match=said):
        placements(Pool(2, kind), EngineSpec(engine, "opt-125m", options={"device": "cuda"}), host)


def test_a_replica_cannot_spread_over_slices(two_slices):
    """They have no way to each other."""
    spec = EngineSpec("of another package", "m", options={"device": "cuda", "tensor_parallel_size": 2})
    with pytest.raises(UsageError, match="slices don't reach each other"):
        placements(Pool(1, "mig"), spec, Host("cuda", gpus=two_slices))


def test_a_board_with_mig_on_is_used_by_no_process_as_a_whole(two_slices):
    """Replicas beside each other on it are told the kind that works."""
    spec = EngineSpec("transformers", "opt-125m", options={"device": "cuda"})
    with pytest.raises(EngineUnavailable, match=r"MIG is on on GPU 0 .*: take the kind mig"):
        placements(Pool(2), spec, Host("cuda", gpus=two_slices))
