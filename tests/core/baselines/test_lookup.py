"""What is stored for a case, and whether it may be compared."""

from dataclasses import replace

import pytest
from baseline_files import (
    CASE,
    KEY,
    MACHINE,
    SIMULATED,
    files,
    keys,
    machines,
    measurement,
    names,
    recording,
    recordings,
    sample,
    stored,
)
from hypothesis import given

from pytest_slmperf.core.baselines.lookup import Against, Comparable, Incomparable, NoBaseline, lookup
from pytest_slmperf.core.baselines.revision import updated
from pytest_slmperf.core.devices.board import BoardFacts
from pytest_slmperf.core.errors import UsageError
from pytest_slmperf.core.machine import Machine, Role


def test_what_was_accepted_is_found():
    """A lookup with the same key on the same machine gives the stored samples, their tolerances and their recording."""
    found = lookup(stored(), CASE, KEY, MACHINE)
    assert isinstance(found, Comparable)
    assert found.measurement.samples["output_throughput"] == sample(seed=4000)
    assert found.tolerances == {"output_throughput": 0.03}
    assert found.point.recorded == "2026-01-01T00:00:00Z"
    assert found.notes == ()


def test_every_differing_field_is_named():
    """What is incomparable names each field of the key and of the machine that differs, with both values."""
    now = replace(MACHINE, driver="590.10", fields={**MACHINE.fields, "power_limit_w": 500})
    found = lookup(stored(), CASE, {**KEY, "dtype": "int8", "option.flash": True}, now)
    assert isinstance(found, Incomparable)
    assert [str(field) for field in found.fields] == [
        "dtype: float32 (stored) → int8 (now)",
        "option.flash: absent (stored) → true (now)",
        "power_limit_w: 700 (stored) → 500 (now)",
        "driver: 580.65 (stored) → 590.10 (now)",
    ]
    assert found.reason == "; ".join(map(str, found.fields))


@pytest.mark.parametrize("file", [None, stored()])
def test_an_unknown_case_has_no_baseline(file):
    """Without a file, or without the case in it, there is no baseline."""
    assert lookup(file, "decode/opt-1.3b/batch=1", KEY, MACHINE) == NoBaseline("nothing is recorded for it")


def test_joules_of_a_stand_in_are_no_baseline_of_a_real_machine():
    """Recording refuses them; a file whose machine was renamed by hand holds them all the same."""
    file = stored()
    renamed = replace(file.cases[CASE].points[0], boards={"GPU-1": BoardFacts("counter", 700.0, simulated=True)})
    file = replace(file, cases={CASE: replace(file.cases[CASE], points=(renamed,))})
    found = lookup(file, CASE, KEY, MACHINE)
    assert found == NoBaseline("a stand-in for a driver told its joules, and NVIDIA H100 is a real machine")


def test_a_note_does_not_stop_a_comparison():
    """A field that is only worth a note leaves samples comparable, and is said."""
    now = replace(MACHINE, fields={**MACHINE.fields, "kernel": "6.1.9"})
    found = lookup(stored(), CASE, KEY, now)
    assert isinstance(found, Comparable)
    assert found.notes == ("kernel: 6.1.0 (stored) → 6.1.9 (now)",)


@pytest.mark.parametrize(
    ("key", "machine", "against"),
    [
        ({**KEY, "engine_version": "4.9.0"}, MACHINE, "engine_version=4.8.5"),
        ({**KEY, "threads": 2}, MACHINE, "threads=1"),
        (KEY, replace(MACHINE, driver="590.10"), "driver=580.65"),
        (KEY, Machine("NVIDIA H200", "580.65", {**MACHINE.fields, "cores": 32}), "device=NVIDIA H100"),
        (KEY, Machine("NVIDIA H200", "580.65", MACHINE.fields), "device=nvidia-h100"),
        (KEY, MACHINE, "driver=580.65"),
    ],
)
def test_the_field_that_was_asked_for_may_differ(key, machine, against):
    """A comparison across one field works where it alone differs; another device may have another number of cores."""
    assert isinstance(lookup(stored(), CASE, key, machine, Against.parse(against)), Comparable)


def test_across_one_field_any_other_is_still_named():
    """What differs beside the field that was asked for makes samples incomparable."""
    key = {**KEY, "engine_version": "4.9.0", "dtype": "int8"}
    found = lookup(stored(), CASE, key, MACHINE, Against("engine_version", "4.8.5"))
    assert isinstance(found, Incomparable)
    assert [field.field for field in found.fields] == ["dtype"]


def test_across_a_field_the_stored_value_must_be_the_one_asked_for():
    """Asking for a value that isn't the stored one is incomparable, and shows what is stored."""
    found = lookup(stored(), CASE, {**KEY, "engine_version": "4.9.0"}, MACHINE, Against("engine_version", "4.7.0"))
    assert isinstance(found, Incomparable)
    assert found.reason == "engine_version: 4.8.5 (stored), 4.7.0 was asked for"


def test_across_an_unknown_field_is_wrong_usage_that_lists_the_fields():
    """A field that neither side has is refused, with those that there are."""
    with pytest.raises(UsageError, match=r"'drivr' is no field of .*; its fields are .*driver, dtype.*threads"):
        lookup(stored(), CASE, KEY, MACHINE, Against("drivr", "1"))


@pytest.mark.parametrize("text", ["driver", "=1", "driver=", " = "])
def test_against_takes_a_key_and_a_value(text):
    """What isn't KEY=VALUE is wrong usage."""
    with pytest.raises(UsageError, match="is not KEY=VALUE"):
        Against.parse(text)


def test_against_keeps_equals_signs_of_the_value():
    """The first equals sign ends the key."""
    assert Against.parse("option.env = A=1") == Against("option.env", "A=1")


@pytest.mark.parametrize("against", [None, Against("device", "simulated"), Against("driver", "simulated")])
def test_a_simulated_machine_is_comparable_with_no_real_one(against):
    """Nothing bridges a simulated and a real machine, in either direction."""
    simulated = updated(None, SIMULATED, "fake", "decode", recording(measurement(key={**KEY, "engine": "fake"})))
    found = lookup(simulated, CASE, {**KEY, "engine": "fake"}, replace(MACHINE, driver="simulated"), against)
    assert isinstance(found, Incomparable)
    real = Against(against.field, MACHINE.flat()[against.field]) if against else None
    assert isinstance(lookup(stored(), CASE, KEY, replace(SIMULATED, fields=MACHINE.fields), real), Incomparable)


def test_a_planted_loss_is_compared_as_if_it_were_a_real_one():
    """A loss put in on purpose is no difference of the key: the gate must be able to find it."""
    assert isinstance(lookup(stored(), CASE, {**KEY, "planted_loss": 0.2}, MACHINE), Comparable)


@given(recordings(), machines, files())
def test_accept_then_lookup_finds_it(one, machine, file):
    """Whatever was accepted is found under its own key on its own machine, sample for sample."""
    before = None if file.machine.differences(machine, Role.MUST_MATCH, Role.PART_OF_DEVICE) else file
    after = updated(before, machine, "ctranslate2", "a", one)
    for measured in one.measurements:
        found = lookup(after, measured.case, measured.key, machine)
        assert isinstance(found, Comparable)
        assert found.measurement.samples == measured.samples


@given(keys, keys, machines, machines)
def test_lookup_is_symmetric(stored_key, key, stored_on, machine):
    """What can't be compared one way can't be compared the other way, for the same fields."""
    there = lookup(stored(machine=stored_on, key=stored_key), CASE, key, machine)
    back = lookup(stored(machine=machine, key=key), CASE, stored_key, stored_on)
    assert type(there) is type(back)
    if isinstance(there, Incomparable):
        assert {field.field for field in there.fields} == {field.field for field in back.fields}


@given(keys, machines)
def test_lookup_is_reflexive(key, machine):
    """A case is comparable with itself, without a note."""
    found = lookup(stored(machine=machine, key=key), CASE, key, machine)
    assert isinstance(found, Comparable)
    assert found.notes == ()


@given(keys, keys, machines, machines, names)
def test_against_forgives_one_field_at_most(stored_key, key, stored_on, machine, field):
    """Across a field of the key whose stored value is asked for, that field is never named, and no other is hidden."""
    value = stored_key.get(field)
    if value in (None, "") or field not in {**stored_key, **key}:
        return
    plain = lookup(stored(machine=stored_on, key=stored_key), CASE, key, machine)
    across = lookup(stored(machine=stored_on, key=stored_key), CASE, key, machine, Against(field, str(value)))
    named = {one.field for one in plain.fields} if isinstance(plain, Incomparable) else set()
    still = {one.field for one in across.fields} if isinstance(across, Incomparable) else set()
    assert still == named - {field}
