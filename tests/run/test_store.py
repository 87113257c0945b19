"""The store: what is read, what is written, and what survives a race, a kill and a full disk."""

import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_slmperf.core.baselines.baseline import BaselineFile, Retirement, StoredCase, StoredMetric, StoredRecording
from pytest_slmperf.core.baselines.lookup import Against, Comparable, lookup
from pytest_slmperf.core.baselines.revision import Recording
from pytest_slmperf.core.errors import BaselineError
from pytest_slmperf.core.machine import Machine
from pytest_slmperf.core.metrics import metric
from pytest_slmperf.core.sample import LARGEST, SMALLEST, Measurement, Sample
from pytest_slmperf.run import baseline_format, schema
from pytest_slmperf.run.store import BaselineStore, read_baseline

MACHINE = Machine("NVIDIA H100 80GB HBM3", "580.65", {"cores": 16})
ENGINE, SUITE = "ctranslate2", "decode"
KEY = {"engine": ENGINE, "dtype": "float32", "threads": 1}
PLACE = "nvidia-h100-80gb-hbm3/580.65/ctranslate2-decode.json"


def recording(*cases, median=4000.0, launches=20):
    draw = random.Random(median)
    measurements = [
        Measurement(case, KEY, {"output_throughput": Sample.of([[median * draw.uniform(0.99, 1.01)] * 3] * launches)})
        for case in cases or ("decode/m/batch=1",)
    ]
    tolerances = {(one.case, "output_throughput"): 0.03 for one in measurements}
    return Recording(measurements, tolerances, "2026-01-01T00:00:00Z", "0123abc", "me", {"python": "3.12.1"})


@pytest.fixture
def store(tmp_path):
    return BaselineStore(tmp_path / "baselines")


@pytest.fixture
def path(store):
    """A file with one recorded case."""
    store.accept(MACHINE, [(ENGINE, SUITE, recording())])
    return store.path_of(MACHINE, ENGINE, SUITE)


def refusal(path):
    with pytest.raises(BaselineError) as caught:
        read_baseline(path)
    return str(caught.value)


def in_child(body, *arguments, **how):
    """Start a process that runs a body of Python with this module's names imported.

    It writes no bytecode: where it may write little, Python leaves half of a module's for whoever comes next.
    """
    source = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from test_store import *\n{body}"
    command = [sys.executable, "-B", "-c", source, *map(str, arguments)]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **how)


def files_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# -- places and text


def test_a_file_lies_under_its_device_and_driver(store):
    """One file holds one machine, driver, engine and suite, in folders that read like them."""
    assert store.path_of(MACHINE, ENGINE, SUITE) == store.root / PLACE


def test_an_engine_with_a_hyphen_is_told_from_its_suite(store):
    """The suite begins after the first hyphen, whatever the engine is called."""
    assert store.path_of(MACHINE, "vllm-cpu", "decode").name == "vllm_cpu-decode.json"
    assert store.path_of(MACHINE, "vllm", "cpu-decode").name == "vllm-cpu-decode.json"


def test_the_text_reads_well_in_a_review(path):
    """Keys are sorted, a launch's rounds stand on one line, and the file ends with a newline."""
    text = path.read_text()
    document = json.loads(text)
    assert list(document) == ["cases", "engine", "format", "machine", "suite"]
    assert document["format"] == 1
    launches = document["cases"]["decode/m/batch=1"]["points"][0]["metrics"]["output_throughput"]["launches"]
    assert sum(line.strip().rstrip(",") == json.dumps(launches[0]) for line in text.splitlines()) == 20
    assert text.endswith("}\n")


def test_another_recording_only_adds_lines(store, path):
    """A new recording is a block of added lines, and but for commas no line of the others changes."""
    before = path.read_text().splitlines()
    store.accept(MACHINE, [(ENGINE, SUITE, recording(median=4100.0))])
    after = iter([line.rstrip(",") for line in path.read_text().splitlines()])
    assert all(line.rstrip(",") in after for line in before)


def test_what_was_accepted_is_loaded(store, path):
    """A file is found by machine, engine and suite, with commit, author and versions beside the raw samples."""
    file = store.load(MACHINE, ENGINE, SUITE)
    assert isinstance(lookup(file, "decode/m/batch=1", KEY, MACHINE), Comparable)
    point = file.cases["decode/m/batch=1"].current
    assert (point.commit, point.by, point.versions) == ("0123abc", "me", {"python": "3.12.1"})
    assert store.load(MACHINE, ENGINE, "prefill") is None
    assert [stored.path for stored in store.files()] == [path]


def test_accepting_the_same_suite_name_in_another_spelling_is_refused(store):
    """Two suites whose names give one file name don't share it."""
    store.accept(MACHINE, [(ENGINE, "decode.long", recording())])
    with pytest.raises(BaselineError, match=r"holds decode\.long on ctranslate2, not Decode\.long"):
        store.accept(MACHINE, [(ENGINE, "Decode.long", recording())])


@pytest.mark.parametrize(
    "against",
    [Against("driver", "580.65"), Against("device", MACHINE.device), Against("device", "nvidia-h100-80gb-hbm3")],
)
def test_the_file_of_another_machine_is_loaded_when_asked_for(store, path, against):
    """Comparing across a driver or a device reads that one's file."""
    here = Machine("NVIDIA H200", "580.65") if against.field == "device" else Machine(MACHINE.device, "590.10")
    assert store.load(here, ENGINE, SUITE) is None
    assert store.load(here, ENGINE, SUITE, against) == read_baseline(path)


def test_other_drivers_with_a_baseline_are_named(store, path):
    """Where this driver has no baseline, those that have one are named with the option that compares."""
    assert path.exists()
    now = Machine(MACHINE.device, "590.10")
    sentence = "baselines exist for driver 580.65: compare with --slmperf-against=driver=580.65"
    assert store.elsewhere(now, ENGINE, SUITE) == sentence
    device = store.elsewhere(Machine("NVIDIA H200", "580.65"), ENGINE, SUITE)
    assert device.endswith("compare with --slmperf-against='device=NVIDIA H100 80GB HBM3'")


def test_a_real_and_a_simulated_machine_are_not_offered_to_each_other(store, path):
    """What can never be compared is no way out."""
    assert path.exists()
    assert store.elsewhere(Machine("simulated", "580.65"), ENGINE, SUITE) == ""
    assert store.elsewhere(MACHINE, ENGINE, "prefill") == ""


def test_a_damaged_file_elsewhere_does_not_stop_the_message(store, path):
    """A file that nobody asked for may be broken without hiding that there is no baseline."""
    path.write_text("{")
    assert store.elsewhere(Machine(MACHINE.device, "590.10"), ENGINE, SUITE) == ""


def test_retiring_and_pruning_change_the_file(store, path):
    """Retiring notes the reason in the file; pruning the last case removes the file."""
    store.accept(MACHINE, [(ENGINE, SUITE, recording("decode/m/batch=2"))])
    changes = store.retire(path, "decode/m/batch=1", Retirement("2026-02-01T00:00:00Z", "the fan was broken"))
    assert [one.case for one in changes.gone] == ["decode/m/batch=1"]
    assert read_baseline(path).cases["decode/m/batch=1"].points[0].retired.reason == "the fan was broken"
    assert not store.prune({path: {"decode/m/batch=1", "decode/m/batch=2"}})
    assert len(store.prune({path: {"decode/m/batch=1"}}).gone) == 1
    store.prune({path: ()})
    assert files_in(store.root) == []


def test_a_change_of_nothing_leaves_the_file_untouched(store, path):
    """Pruning what isn't stale doesn't rewrite the file."""
    before = path.stat()
    store.prune({path: {"decode/m/batch=1"}})
    assert path.stat() == before


def test_changing_a_file_that_is_not_there_is_refused(store):
    """Retiring or pruning in a file that doesn't exist names it."""
    with pytest.raises(BaselineError, match=r"absent\.json: there is no such file"):
        store.prune({store.root / "absent.json": ()})


# -- files that can't be read


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"\$: the file is empty"),
        (b" \n", r"\$: the file is empty"),
        (b"not json", r"\$: not JSON at line 1, column 1"),
        (b'{"format": 1,\n<<<<<<< HEAD\n', r"not JSON at line 2, column 1: .*git's conflict markers: keep one side"),
        (b"\xff\xfe{}", r"\$: not UTF-8 at byte 0"),
        (b"[]", r"\$: \[\] is not of type \"object\""),
        (b"{}", r'\$: "format" is a required property'),
        (b'{"format": 1, "format": 1}', r"'format' occurs twice"),
        (b"[" * 100_000, r"\$: nested too deeply"),
    ],
)
def test_a_file_that_is_no_baseline_is_refused(path, content, message):
    """Empty, truncated, foreign, conflicting and absurd files are named with the place and the way out."""
    path.write_bytes(content)
    told = refusal(path)
    assert told.startswith(f"{path}: ")
    assert told.endswith(
        f"take it from git (git checkout -- {path}), or delete it and record: pytest --slmperf --slmperf-accept"
    )
    assert re.search(message, told), told


def test_a_truncated_file_is_refused_wherever_it_is_cut(path):
    """No beginning of a file is taken for the whole."""
    whole = path.read_bytes()
    for end in (*range(1, len(whole) - 2, 97), len(whole) - 3):
        path.write_bytes(whole[:end])
        assert "not JSON at line" in refusal(path)


def test_a_missing_file_is_refused(store):
    """Reading a file that isn't there says how to record it."""
    assert "there is no such file; record it: pytest --slmperf --slmperf-accept" in refusal(store.root / "absent.json")


def test_a_folder_in_place_of_a_file_is_refused(store):
    """A folder with a baseline's name is refused when it is read and when it is written."""
    path = store.path_of(MACHINE, ENGINE, SUITE)
    path.mkdir(parents=True)
    assert "it is no file" in refusal(path)
    with pytest.raises(BaselineError, match="it is no file"):
        store.accept(MACHINE, [(ENGINE, SUITE, recording())])


def test_a_file_in_place_of_a_folder_is_refused(store):
    """A file where the driver's folder should be is named."""
    store.root.mkdir()
    (store.root / "nvidia-h100-80gb-hbm3").write_text("")
    with pytest.raises(BaselineError, match="Not a directory"):
        store.load(MACHINE, ENGINE, SUITE)


def test_a_newer_file_says_to_upgrade(path):
    """A format of the future isn't guessed at."""
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    assert "$.format: 2, written by a newer pytest-slmperf; this one reads up to 1: upgrade it" in refusal(path)


AT = '$.cases["decode/m/batch=1"].points[0]'
THROUGHPUT = f"{AT}.metrics.output_throughput"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda point: point.update(recorded="yesterday"), f"{AT}.recorded: "),
        (lambda point: point.pop("by"), f"{AT}: "),
        (lambda point: point.update(note="hello"), f"{AT}: "),
        (lambda point: point.update(metrics={}), f"{AT}.metrics: "),
        (
            lambda point: point.update(retired={"when": "2026-01-01T00:00:00Z", "reason": "", "by": ""}),
            f"{AT}.retired.reason",
        ),
        (lambda point: point["metrics"]["output_throughput"].update(tolerance=0.2), f"{THROUGHPUT}.tolerance: "),
        (lambda point: point["metrics"]["output_throughput"].update(tolerance=0), f"{THROUGHPUT}.tolerance: "),
        (lambda point: point["metrics"]["output_throughput"]["launches"].pop(), f"{THROUGHPUT}.launches: "),
        (lambda point: point["metrics"]["output_throughput"]["launches"][3].clear(), f"{THROUGHPUT}.launches[3]: "),
        (
            lambda point: point["metrics"]["output_throughput"]["launches"][3].append(0),
            f"{THROUGHPUT}.launches[3][3]: ",
        ),
        (
            lambda point: point["metrics"]["output_throughput"]["launches"][3].append("4"),
            f"{THROUGHPUT}.launches[3][3]: ",
        ),
        (
            lambda point: point["metrics"]["output_throughput"]["launches"][3].append(True),
            f"{THROUGHPUT}.launches[3][3]: ",
        ),
        (lambda point: point["metrics"]["output_throughput"]["launches"][3].append(10**400), f"{THROUGHPUT}"),
        (
            lambda point: point["metrics"]["output_throughput"].update(unit="tok/min"),
            f"{THROUGHPUT}.unit: output_throughput has 'tok/min' here, and 'tok/s' by its definition",
        ),
        (
            lambda point: point["metrics"]["output_throughput"].update(higher_is_better=False),
            f"{THROUGHPUT}.higher_is_better: output_throughput has False here, and True by its definition",
        ),
        (
            lambda point: point["metrics"].update(speed=point["metrics"]["output_throughput"]),
            f"{AT}.metrics.speed: unknown metric 'speed'",
        ),
        (
            lambda point: point["metrics"].update(ttft_ms={**point["metrics"]["output_throughput"], "unit": "ms"}),
            f"{AT}.metrics.ttft_ms: ttft_ms is stored as median_ttft_ms",
        ),
    ],
)
def test_a_wrong_field_is_named(path, edit, message):
    """What breaks the schema or the table of metrics is named by its place in the file."""
    document = json.loads(path.read_text())
    edit(document["cases"]["decode/m/batch=1"]["points"][0])
    path.write_text(json.dumps(document))
    assert f"{path}: {message}" in refusal(path)


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_value_that_is_no_number_is_refused(path, literal):
    """NaN and the infinities, which Python's JSON knows, are no values of a sample, however they are spelled."""
    document = json.loads(path.read_text())
    launches = document["cases"]["decode/m/batch=1"]["points"][0]["metrics"]["output_throughput"]["launches"]
    launches[0][0] = "HERE"
    path.write_text(json.dumps(document).replace('"HERE"', literal))
    told = refusal(path)
    assert "no sample has such a value" in told or f"{THROUGHPUT}.launches[0][0]: " in told


@pytest.mark.parametrize("field", ['"cores": ', '"threads": ', '"tolerance": '])
def test_an_infinite_field_is_refused(path, field):
    """A number too large for a float is no value of a machine, a key or a tolerance either."""
    path.write_text(re.sub(f"{field}[0-9.]+", f"{field}1e999", path.read_text()))
    assert f".{field[1:-3]}: inf is no finite number" in refusal(path)


@pytest.mark.parametrize("text", [b"\x80", b'"\\ud800"', b'{"format": 1e999}', b'{"format": true}', b"null", b"1"])
def test_odd_json_is_refused_and_never_crashes(path, text):
    """Whatever a file holds, reading it ends in an explanation."""
    path.write_bytes(text)
    assert refusal(path).startswith(f"{path}: $")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda file: file["machine"].update(zz="\ud83d"), "$.machine.zz: '\\ud83d' is no character"),
        (
            lambda file: file["machine"].update({"\udcff": 1}),
            "$.machine: in the name '\\udcff': ",
        ),
        (lambda file: file["machine"].update(cores=10**400), "$.machine.cores: a whole number beyond 1e308"),
        (lambda file: file["machine"].update(zz=[[[[]]]] * 2), "$.machine.zz: "),
        (lambda file: file["cases"].update({"": file["cases"]["decode/m/batch=1"]}), "$.cases: "),
    ],
    ids=["half a character", "in a name", "a huge number", "no scalar", "an empty name"],
)
def test_what_nothing_can_hold_is_named(path, edit, message):
    """JSON can spell what breaks whoever writes it, shows it or counts with it: that is refused where it is read."""
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))
    assert f"{path}: {message}" in refusal(path)


@pytest.mark.parametrize("value", [1e-310, 1e308, 10**400])
def test_a_value_that_no_metric_has_is_refused(path, value):
    """Ratios of what is read are numbers: a value far beyond any measured one is refused with its file."""
    document = json.loads(path.read_text())
    document["cases"]["decode/m/batch=1"]["points"][0]["metrics"]["output_throughput"]["launches"][3][0] = value
    path.write_text(json.dumps(document))
    assert refusal(path).startswith(f"{path}: {THROUGHPUT}")


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_json_is_a_baseline_or_refused(document):
    """No JSON document makes the reader crash."""
    with pytest.raises(BaselineError):
        baseline_format.parse(json.dumps(document).encode(), "here")


# -- writing


def test_two_runs_that_accept_at_once_lose_nothing(store):
    """Processes that record different cases of one file at the same time leave all of them in it."""
    body = """
store = BaselineStore(Path(sys.argv[1]))
sys.stdin.read()
for size in range(3):
    store.accept(MACHINE, [(ENGINE, SUITE, recording(f"decode/{sys.argv[2]}/batch={size}"))])
"""
    writers = [in_child(body, store.root, name, stdin=subprocess.PIPE) for name in "abcd"]
    for writer in writers:
        writer.stdin.close()  # all of them begin now
        writer.stdin = None
    assert [writer.communicate(timeout=60)[1] for writer in writers] == [""] * 4
    file = store.load(MACHINE, ENGINE, SUITE)
    assert set(file.cases) == {f"decode/{name}/batch={size}" for name in "abcd" for size in range(3)}
    assert files_in(store.root) == [PLACE]


def test_a_reader_never_sees_half_a_file(store, path):
    """While others write, every read gives a whole file."""
    body = """
store = BaselineStore(Path(sys.argv[1]))
for median in range(4000, 4008):
    recorded = recording(*(f"decode/m/batch={size}" for size in range(50)), median=median)
    store.accept(MACHINE, [(ENGINE, SUITE, recorded)])
"""
    writer = in_child(body, store.root)
    reads = 0
    while writer.poll() is None:
        read_baseline(path)
        reads += 1
    assert writer.communicate() == ("", "")
    assert reads


def test_a_writer_that_is_killed_leaves_the_old_file_or_the_new_one(store, path):
    """kill -9 at any moment of writing leaves a whole file, and the next writer takes away what was left."""
    body = """
store = BaselineStore(Path(sys.argv[1]))
print("ready", flush=True)
for median in range(5000, 9000):
    recorded = recording(*(f"decode/m/batch={size}" for size in range(40)), median=median)
    store.accept(MACHINE, [(ENGINE, SUITE, recorded)])
"""
    draw = random.Random(0)
    for _ in range(4):
        writer = in_child(body, store.root)
        assert writer.stdout.readline() == "ready\n"
        time.sleep(draw.uniform(0, 0.2))
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
        read_baseline(path)
    (path.parent / f".{path.name}.0badcafe.tmp").write_text('{"half')
    store.accept(MACHINE, [(ENGINE, SUITE, recording("decode/m/batch=99"))])
    assert "decode/m/batch=99" in read_baseline(path).cases
    assert files_in(store.root) == [PLACE]


ACCEPT = """
try:
    BaselineStore(Path(sys.argv[1])).accept(MACHINE, [(ENGINE, SUITE, recording(*map(str, range(99))))])
except BaselineError as error:
    sys.exit(f"told: {error}")
"""


def test_a_full_disk_leaves_the_old_file(store, path):
    """A write that the disk refuses is told, changes nothing and leaves no rubbish."""
    before = path.read_bytes()

    def little_room():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))

    _, told = in_child(ACCEPT, store.root, preexec_fn=little_room).communicate()
    assert "told: " in told
    assert f"{path}: can't be written: File too large; what was stored still is" in told
    assert path.read_bytes() == before
    assert files_in(store.root) == [PLACE]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_disk_without_space_leaves_the_old_file(tmp_path):
    """The same on a real disk that has room for the first of two files and not for the second."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["/bin/mount", "-t", "tmpfs", "-o", "size=32k", "none", disk], capture_output=True, check=False
    ).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        store = BaselineStore(disk)
        store.accept(MACHINE, [(ENGINE, SUITE, recording())])
        before = (disk / PLACE).read_bytes()
        several = [(ENGINE, "prefill", recording()), (ENGINE, SUITE, recording(*map(str, range(99))))]
        with pytest.raises(BaselineError, match="No space left on device; what was stored still is"):
            store.accept(MACHINE, several)
        assert (disk / PLACE).read_bytes() == before
        assert files_in(disk) == [PLACE]
    finally:
        subprocess.run(["/bin/umount", disk], check=True)


def test_a_full_disk_accepts_no_file_of_several(store, path):
    """Where the second of two files doesn't fit, the first one isn't changed either."""
    before = path.read_bytes()
    body = """
several = [(ENGINE, SUITE, recording("decode/m/batch=2")), (ENGINE, "prefill", recording(*map(str, range(99))))]
try:
    BaselineStore(Path(sys.argv[1])).accept(MACHINE, several)
except BaselineError as error:
    sys.exit(f"told: {error}")
"""

    def room_for_one():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))

    _, told = in_child(body, store.root, preexec_fn=room_for_one).communicate()
    assert f"told: {path.with_name('ctranslate2-prefill.json')}: can't be written: File too large" in told
    assert path.read_bytes() == before
    assert files_in(store.root) == [PLACE]


def test_two_recordings_of_one_file_are_both_kept(store):
    """A suite that is measured in two parts is one file with the cases of both."""
    parts = [(ENGINE, SUITE, recording(f"decode/m/batch={size}")) for size in (16, 4)]
    assert [one.case for one in store.accept(MACHINE, parts).new] == ["decode/m/batch=4", "decode/m/batch=16"]
    assert len(store.load(MACHINE, ENGINE, SUITE).cases) == 2


@pytest.fixture
def in_the_open():
    """A folder that every user can reach."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


AS_NOBODY = """
schema.violation("baseline", None)  # reads the schema, which a user without a name may not
if os.geteuid() == 0:  # permissions don't hold for root
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
"""


def test_a_folder_that_may_not_be_written_leaves_the_old_file(in_the_open):
    """A read-only folder is told, and nothing in it changes."""
    store = BaselineStore(in_the_open)
    store.accept(MACHINE, [(ENGINE, SUITE, recording())])
    path = in_the_open / PLACE
    before = path.read_bytes()
    path.parent.chmod(0o555)
    _, told = in_child(AS_NOBODY + ACCEPT, in_the_open).communicate()
    path.parent.chmod(0o755)
    assert f"told: {path}: can't be written: Permission denied; what was stored still is" in told
    assert path.read_bytes() == before
    assert files_in(in_the_open) == [PLACE]


PRUNE_BOTH = """
store = BaselineStore(Path(sys.argv[1]))
first, second = (stored.path for stored in store.files())
try:
    store.prune({first: {"decode/m/batch=1"}, second: ()})
except BaselineError as error:
    sys.exit(f"told: {error}")
"""


def test_a_change_that_is_refused_half_way_says_so(in_the_open):
    """Where one file is replaced already and another can't be, nobody is told that all is as it was."""
    store = BaselineStore(in_the_open)
    store.accept(MACHINE, [(ENGINE, SUITE, recording("decode/m/batch=1", "decode/m/batch=2"))])
    other = replace(MACHINE, driver="590.10")
    store.accept(other, [(ENGINE, SUITE, recording())])
    first, second = (store.path_of(machine, ENGINE, SUITE) for machine in (MACHINE, other))
    first.parent.chmod(0o777)
    first.chmod(0o666)
    second.parent.chmod(0o555)
    _, told = in_child(AS_NOBODY + PRUNE_BOTH, in_the_open).communicate()
    second.parent.chmod(0o755)
    assert f"told: {second}: can't be written: Permission denied; other files may hold the change already" in told
    assert list(read_baseline(first).cases) == ["decode/m/batch=1"]
    assert second.exists()


def test_a_file_that_may_not_be_read_is_refused(in_the_open):
    """A file without read permission is told, not taken for a missing one."""
    BaselineStore(in_the_open).accept(MACHINE, [(ENGINE, SUITE, recording())])
    path = in_the_open / PLACE
    path.chmod(0)
    _, told = in_child(AS_NOBODY + ACCEPT, in_the_open).communicate()
    assert f"told: {path}: can't be read: Permission denied" in told


HOLD = """
from pytest_slmperf.run.lock import baselines_lock
with baselines_lock(Path(sys.argv[1]), wait_s=9):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_stuck_writer_is_waited_for_and_named(store, path, tmp_path):
    """Whoever can't have the lock in time says so, and which lock it is, wherever each has its temporary files."""
    elsewhere = {**os.environ, "TMPDIR": str(tmp_path)}
    holder = in_child(HOLD, path.parents[2], stdin=subprocess.PIPE, env=elsewhere)
    assert holder.stdout.readline() == "held\n"
    try:
        with pytest.raises(BaselineError, match=r"another process has been changing it for 0\.1 s \(lock .*\.lock\)"):
            BaselineStore(store.root, lock_wait_s=0.1).accept(MACHINE, [(ENGINE, SUITE, recording())])
        assert files_in(store.root) == [PLACE]
    finally:
        holder.communicate("")


def test_two_ways_to_one_folder_share_a_lock(store, path, tmp_path):
    """A link to the folder of baselines is the same folder."""
    assert path.exists()
    (tmp_path / "link").symlink_to(store.root)
    holder = in_child(HOLD, tmp_path / "link", stdin=subprocess.PIPE)
    assert holder.stdout.readline() == "held\n"
    try:
        with pytest.raises(BaselineError, match="another process has been changing it"):
            BaselineStore(store.root, lock_wait_s=0.1).accept(MACHINE, [(ENGINE, SUITE, recording())])
    finally:
        holder.communicate("")


def test_a_link_is_followed(store, path, tmp_path):
    """A baseline that lies elsewhere stays where it lies, and is found through the link."""
    real = tmp_path / "real.json"
    path.rename(real)
    path.symlink_to(real)
    store.accept(MACHINE, [(ENGINE, SUITE, recording("decode/m/batch=2"))])
    assert path.is_symlink()
    assert len(read_baseline(real).cases) == 2


def test_a_file_keeps_its_permissions(store, path):
    """A new recording doesn't lock colleagues out."""
    path.chmod(0o664)
    store.accept(MACHINE, [(ENGINE, SUITE, recording("decode/m/batch=2"))])
    assert path.stat().st_mode & 0o777 == 0o664


@pytest.mark.parametrize("recorded", ["yesterday", "", "2026-13-01T00:00:00Z"])
def test_what_breaks_the_schema_is_not_written(store, path, recorded):
    """A recording that no reader would take isn't written either."""
    before = path.read_bytes()
    wrong = Recording(recording().measurements, recording().tolerances, recorded)
    with pytest.raises(BaselineError, match=r"can't be written: \$\.cases\[.*\]\.points\[1\]\.recorded: "):
        store.accept(MACHINE, [(ENGINE, SUITE, wrong)])
    assert path.read_bytes() == before


# -- properties

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
scalars = (
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False) | texts
)
rounds = st.lists(st.floats(SMALLEST, LARGEST), min_size=1, max_size=2)
samples = st.lists(rounds, min_size=20, max_size=20).map(Sample.of)


@st.composite
def points(draw):
    kept = {}
    for name in draw(
        st.lists(st.sampled_from(["output_throughput", "p99_ttft_ms", "startup_s"]), min_size=1, max_size=2)
    ):
        meaning = metric(name)
        tolerance = draw(st.none() | st.floats(0, 0.15, exclude_min=True))
        kept[name] = StoredMetric(draw(samples), meaning.unit, meaning.higher_is_better, tolerance)
    retired = draw(st.none() | st.builds(Retirement, st.just("2026-01-02T00:00:00Z"), texts.filter(bool), texts))
    return StoredRecording(
        "2026-01-01T00:00:00+00:00",
        kept,
        draw(st.none() | texts),
        draw(texts),
        draw(st.dictionaries(texts, texts, max_size=2)),
        retired,
    )


cases = st.builds(
    StoredCase, st.dictionaries(texts, scalars, max_size=3), st.lists(points(), min_size=1, max_size=2).map(tuple)
)
machines = st.builds(
    Machine,
    texts.filter(bool),
    texts.filter(bool),
    st.dictionaries(texts.filter(lambda name: name not in ("device", "driver")), scalars, max_size=2),
)
files = st.builds(
    BaselineFile,
    machines,
    texts.filter(bool),
    texts.filter(bool),
    st.dictionaries(texts.filter(bool), cases, min_size=1, max_size=2),
)


@settings(max_examples=40)
@given(files)
def test_what_is_written_is_read(file):
    """Any baseline comes back from its text exactly as it was, to the last digit of every sample."""
    text = baseline_format.text_of(file, "here")
    assert baseline_format.parse(text.encode(), "here") == file
    assert baseline_format.text_of(baseline_format.parse(text.encode(), "here"), "here") == text


@settings(max_examples=40)
@given(files, st.data())
def test_a_file_with_a_changed_character_is_read_or_refused(file, data):
    """A flipped character gives a readable file or an explanation, never a crash."""
    text = baseline_format.text_of(file, "here").encode()
    place = data.draw(st.integers(0, len(text) - 1))
    damaged = text[:place] + bytes([data.draw(st.integers(0, 255))]) + text[place + 1 :]
    with suppress(BaselineError):
        baseline_format.parse(damaged, "here")


def test_the_published_schema_is_a_schema():
    """The schema is readable by other tools: it keeps its own rules, and says so of a minimal file."""
    minimal = {
        "format": 1,
        "suite": "decode",
        "engine": "fake",
        "machine": {"device": "simulated", "driver": "simulated"},
        "cases": {"decode/m/batch=1": {"key": {}, "points": []}},
    }
    assert schema.violation("baseline", minimal).startswith(
        '$.cases["decode/m/batch=1"].points: [] has less than 1 item'
    )
