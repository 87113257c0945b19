"""How figures moved from driver to driver."""

from dataclasses import replace

import pytest
from baseline_files import CASE, KEY, MACHINE, RETIREMENT, stored

from pytest_slmperf.core.baselines.drivers import tracks, version_order
from pytest_slmperf.core.baselines.revision import retired

THROUGHPUT = "output_throughput"


def on(driver, median=4000.0, key=KEY, **fields):
    """A file of one case, recorded on this driver."""
    return stored(median, machine=replace(MACHINE, driver=driver, fields={**MACHINE.fields, **fields}), key=key)


def test_versions_are_ordered_by_their_numbers():
    """As people count them, not as texts are sorted."""
    versions = ["590.10", "580.105", "580.65.06", "580.65", "linux-6.10", "linux-6.8"]
    assert sorted(versions, key=version_order) == [
        "580.65",
        "580.65.06",
        "580.105",
        "590.10",
        "linux-6.8",
        "linux-6.10",
    ]


def test_each_driver_is_compared_with_the_one_before():
    """In the order of the versions, whatever the order of the files; the first one moved from nothing."""
    (track,) = tracks([on("590.10", 4400.0), on("580.105", 4200.0), on("580.65", 4000.0)])
    assert (track.suite, track.engine, track.device) == ("decode", "ctranslate2", "NVIDIA H100")
    assert [(one.driver, one.before, one.cases, one.newest[:4]) for one in track.recorded] == [
        ("580.65", None, 1, "2026"),
        ("580.105", "580.65", 1, "2026"),
        ("590.10", "580.105", 1, "2026"),
    ]
    assert track.recorded[0].moved == {}
    assert track.recorded[1].moved[THROUGHPUT].ratio == pytest.approx(1.05, abs=0.01)
    assert track.recorded[2].moved[THROUGHPUT].ratio == pytest.approx(4.4 / 4.2, abs=0.01)


def test_what_else_may_have_moved_them_is_said():
    """Another engine version, power limit or board is; another kernel is not."""
    key = {**KEY, "engine_version": "4.9.0"}
    (track,) = tracks([on("580.65"), on("590.10", key=key, power_limit_w=500, gpu_uuid="GPU-1", kernel="6.8.0")])
    assert {one.field for one in track.recorded[1].also} == {"engine_version", "power_limit_w", "gpu_uuid"}


def test_nothing_in_common_has_not_moved():
    """Another workload is no movement, and a case whose recordings are all retired is none either."""
    (track,) = tracks([on("580.65"), on("590.10", key={**KEY, "prompt_tokens": 64})])
    assert (track.recorded[1].moved, [one.field for one in track.recorded[1].also]) == ({}, ["prompt_tokens"])
    (track,) = tracks([on("580.65"), retired(on("590.10"), CASE, RETIREMENT, None)])
    assert (track.recorded[1].cases, track.recorded[1].newest, track.recorded[1].moved) == (0, "", {})


def test_devices_engines_and_suites_are_apart():
    """A row each: nothing is compared across them."""
    file = on("580.65")
    others = [
        replace(file, engine="vllm"),
        replace(file, suite="prefill"),
        replace(file, machine=replace(file.machine, device="NVIDIA A100")),
    ]
    assert [(one.suite, one.engine, one.device) for one in tracks([file, *others])] == [
        ("decode", "ctranslate2", "NVIDIA A100"),
        ("decode", "ctranslate2", "NVIDIA H100"),
        ("decode", "vllm", "NVIDIA H100"),
        ("prefill", "ctranslate2", "NVIDIA H100"),
    ]
