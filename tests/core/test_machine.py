"""Machines: which differences matter, and what a name is on disk."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_slmperf.core.machine import ROLES, Machine, Role, same, slug

XEON = Machine("Intel Xeon Processor 6-143-8, 2 cores", "linux-6.1", {"cores": 2, "kernel": "6.1.0", "hostname": "a"})

fields = st.dictionaries(
    st.sampled_from([*ROLES, "kernel", "microcode"]).filter(lambda name: name not in ("device", "driver")),
    st.none() | st.booleans() | st.integers(0, 3) | st.sampled_from(["a", "b"]),
)
machines = st.builds(Machine, st.sampled_from(["x", "y", "simulated"]), st.sampled_from(["1", "2"]), fields)


@pytest.mark.parametrize(
    ("other", "role", "names"),
    [
        (Machine(XEON.device, "linux-6.2", XEON.fields), Role.MUST_MATCH, {"driver"}),
        (Machine("Arm", XEON.driver, XEON.fields), Role.MUST_MATCH, {"device"}),
        (Machine(XEON.device, XEON.driver, {**XEON.fields, "power_limit_w": 300}), Role.MUST_MATCH, {"power_limit_w"}),
        (Machine(XEON.device, XEON.driver, {**XEON.fields, "cores": 4}), Role.PART_OF_DEVICE, {"cores"}),
        (Machine(XEON.device, XEON.driver, {**XEON.fields, "kernel": "6.1.9"}), Role.NOTE, {"kernel"}),
        (Machine(XEON.device, XEON.driver, {**XEON.fields, "never seen": 1}), Role.NOTE, {"never seen"}),
        (Machine(XEON.device, XEON.driver, {**XEON.fields, "hostname": "b"}), Role.IGNORED, {"hostname"}),
    ],
)
def test_a_difference_has_one_role(other, role, names):
    """A field that differs is found under its own role and under no other; a field nobody knows is worth a note."""
    assert set(XEON.differences(other, role)) == names
    assert not XEON.differences(other, *(set(Role) - {role}))


GPU = {"cores": 16, "smt": True, "gpu_uuid": "GPU-1", "power_limit_w": 700.0, "ecc": True, "mig": False, "mps": False}
H100 = Machine("NVIDIA H100 80GB HBM3", "580.65.06", GPU)


@pytest.mark.parametrize(
    ("field", "value", "role"),
    [
        ("power_limit_w", 500.0, Role.MUST_MATCH),
        ("locked_clock_mhz", 1200, Role.MUST_MATCH),
        ("ecc", False, Role.MUST_MATCH),
        ("mig", True, Role.MUST_MATCH),
        ("mps", True, Role.MUST_MATCH),
        ("env.CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "50", Role.MUST_MATCH),
        ("env.CUDA_LAUNCH_BLOCKING", "1", Role.NOTE),
        ("gpu_uuid", "GPU-2", Role.NOTE),
        ("vbios", "96.00", Role.NOTE),
        ("cores", 8, Role.NOTE),
        ("smt", False, Role.NOTE),
    ],
)
def test_on_a_gpu_its_settings_must_match_and_the_processor_is_worth_a_note(field, value, role):
    """Any board of a model will do, as it was set, whatever feeds it."""
    other = Machine(H100.device, H100.driver, {**GPU, field: value})
    assert set(H100.differences(other, role)) == {field}
    assert not H100.differences(other, *(set(Role) - {role}))


@pytest.mark.parametrize(
    ("machine", "kind", "devices", "simulated"),
    [
        (XEON, "cpu", ["cpu"], False),
        (H100, "cuda", ["cuda", "cuda:1"], False),
        (Machine("simulated", "simulated"), "simulated", ["simulated"], True),
        (Machine("simulated NVIDIA H100", "580.65", GPU), "cuda", ["cuda"], True),
    ],
)
def test_a_machine_runs_what_its_engines_call_their_device(machine, kind, devices, simulated):
    """A GPU is one also where a stand-in for its driver told so, and simulated then."""
    known = ["cpu", "cuda", "cuda:1", "simulated", "rocm", None]
    assert (machine.kind, machine.simulated) == (kind, simulated)
    assert set(devices) <= {device for device in known if machine.runs(device)}
    assert not any(machine.runs(device) for device in known if str(device).partition(":")[0] != kind)


def test_a_difference_shows_both_values():
    """Each difference is (mine, the other's), with None where one of them lacks the field."""
    other = Machine(XEON.device, XEON.driver, {"kernel": "6.1.9", "hostname": "a"})
    assert XEON.differences(other, *Role) == {"kernel": ("6.1.0", "6.1.9"), "cores": (2, None)}


def test_the_device_in_the_flat_form_is_the_device():
    """A stray field called `device` doesn't hide what names the folder."""
    assert Machine("x", "1", {"device": "y"}).flat() == {"device": "x", "driver": "1"}


@given(machines, machines)
def test_differences_are_symmetric(one, other):
    """Two machines differ in the same fields whichever is asked, with the values swapped."""
    there = one.differences(other, *Role)
    assert other.differences(one, *Role) == {name: (theirs, mine) for name, (mine, theirs) in there.items()}


@given(machines)
def test_a_machine_does_not_differ_from_itself(machine):
    """Nothing differs between a machine and itself."""
    assert machine.differences(machine, *Role) == {}


@pytest.mark.parametrize(
    ("one", "other", "equal"), [(2, 2.0, True), (1, True, False), (0, False, False), ("2", 2, False)]
)
def test_values_are_the_same_when_they_mean_the_same(one, other, equal):
    """2 and 2.0 are one value; a truth is no number, and a text is neither."""
    assert same(one, other) is equal
    assert same(other, one) is equal


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "nvidia-h100-80gb-hbm3"),
        ("Intel(R) Xeon(R) Processor 6-143-8, 2 cores", "intel-xeon-processor-6-143-8-2-cores"),
        ("580.65.06", "580.65.06"),
        ("linux-6.18", "linux-6.18"),
        ("decode_long", "decode_long"),
        ("../../etc/passwd", "etc-passwd"),
        ("..", "unnamed"),
        ("", "unnamed"),
        ("Prozeßor Größe", "prozessor-grosse"),
    ],
)
def test_a_slug_reads_like_the_text(text, name):
    """A name on disk has the words of the text, and can't leave its folder."""
    assert slug(text) == name


@given(st.text())
def test_a_slug_is_a_plain_file_name_and_stays_one(text):
    """Any text becomes a file name that is neither hidden nor a way up, and a slug's slug is itself."""
    name = slug(text)
    assert name
    assert name.isascii()
    assert not set(name) & set("/\\ \0")
    assert not name.startswith(".")
    assert slug(name) == name
