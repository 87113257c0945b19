"""What workers with a GPU each measured, as one run."""

from dataclasses import replace

import pytest

from pytest_slmperf.core.joined import joined
from pytest_slmperf.core.machine import Machine
from pytest_slmperf.core.outcome import RunOutcome, SweepOutcome


def sweep(name: str) -> SweepOutcome:
    return SweepOutcome(name, "stored", "gate", {}, (), {}, None, launches=1, seconds=1.0)


def worker(number: int, **other: object) -> RunOutcome:
    machine = Machine("NVIDIA H100", "580.65", {"gpu_uuid": f"GPU-{number}", "ecc": True, "mps": False})
    of_worker = RunOutcome(
        machine,
        (sweep(f"sweep {number}"),),
        started_at=f"2026-03-0{number}T00:00:00+00:00",
        seconds=10.0 * number,
        commit="abc",
        complete=True,
        remarks=("alike", f"of {number}"),
        whole=True,
        recorded=True,
    )
    return replace(of_worker, **other)


def test_all_that_was_measured_is_there_once():
    """As long as the longest worker took, from when the first began."""
    run = joined([worker(2), worker(1), worker(3)])
    assert [one.sweep for one in run.sweeps] == ["sweep 2", "sweep 1", "sweep 3"]
    assert (run.started_at, run.seconds) == ("2026-03-01T00:00:00+00:00", 30.0)
    assert run.remarks == ("alike", "of 2", "of 1", "of 3")
    assert (run.complete, run.whole, run.recorded) == (True, True, True)


def test_the_machine_has_the_gpus_of_all():
    """Fields that are alike stay what they are."""
    machine = joined([worker(1), worker(2)]).machine
    assert (machine.device, machine.driver) == ("NVIDIA H100", "580.65")
    assert machine.fields == {"gpu_uuid": "GPU-1, GPU-2", "ecc": True, "mps": False}


def test_each_sweep_says_which_of_the_gpus_it_was_measured_on():
    """A run on both of them would have the same machine; of workers that had one GPU in turn nothing need be said."""
    run = joined([worker(1), worker(2)])
    assert [one.notes for one in run.sweeps] == [("measured on GPU-1",), ("measured on GPU-2",)]
    twice = joined([worker(1), replace(worker(1), sweeps=(sweep("other"),))])
    assert [one.notes for one in twice.sweeps] == [(), ()]
    four = joined([run, joined([worker(3), worker(1)])])
    assert [one.notes for one in four.sweeps] == [(f"measured on GPU-{board}",) for board in (1, 2, 3, 1)]
    assert four.machine.fields["gpu_uuid"] == "GPU-1, GPU-2, GPU-3"


@pytest.mark.parametrize("field", ["complete", "whole", "recorded"])
def test_it_is_as_whole_as_the_least_whole(field):
    """One worker that was cut short makes a part of the whole."""
    run = joined([worker(1), worker(2, **{field: False}, problems=("why",))])
    assert getattr(run, field) is False
    assert run.problems == ("why",)
