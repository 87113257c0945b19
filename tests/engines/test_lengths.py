"""Lengths come from the suite, from the excerpt that ships, or from a user's file."""

import pytest

from pytest_slmperf.core.errors import SuiteError
from pytest_slmperf.core.slo import Slo
from pytest_slmperf.core.sweeps.workload import ClosedLoop, OpenLoop, Replay, StaticBatch, TraceLengths, Uniform
from pytest_slmperf.engines.lengths import draw_lengths, read_arrivals, read_trace, recorded, workload_key


def test_fixed_lengths_are_repeated():
    """A batch of fixed lengths is so many times the same request; nothing is left out."""
    assert draw_lengths(StaticBatch(8, 4), 3, context_tokens=12) == (((8, 4),) * 3, 0)


def test_fixed_lengths_beyond_the_context_are_refused():
    """Lengths that can never be served are an error of the suite."""
    with pytest.raises(SuiteError, match="8 prompt tokens and 5 output tokens exceed the model's context of 12"):
        draw_lengths(StaticBatch(8, 5), 3, context_tokens=12)


def test_the_shipped_excerpt_is_the_first_thousand_requests():
    """The excerpt has 1,000 requests; those beyond a context of 2,048 tokens are left out and counted."""
    recorded = read_trace("azure-conversation-2023")
    assert len(recorded) == 1_000
    assert recorded[:2] == ((374, 44), (396, 109))
    drawn, left_out = draw_lengths(StaticBatch(lengths=TraceLengths()), 64, context_tokens=2_048)
    assert left_out == 95
    assert len(set(drawn) & set(recorded)) == len(set(drawn))


def test_another_seed_draws_other_requests():
    """The seed is the trace's, so that two suites can use unlike parts of it."""
    draws = [draw_lengths(StaticBatch(lengths=TraceLengths(seed=seed)), 16, 2_048)[0] for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


def test_a_users_file_is_read(tmp_path):
    """A CSV file with the two columns will do, in any order, with others beside them, and with a byte order mark."""
    file = tmp_path / "mine.csv"
    file.write_text("GeneratedTokens,who,ContextTokens\n5,me,10\n6,you,20\n", encoding="utf-8-sig")
    assert read_trace(str(file)) == ((10, 5), (20, 6))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ContextTokens\n1\n", r"mine\.csv, line 1: there is no column GeneratedTokens"),
        ("", r"mine\.csv, line 1: there is no column ContextTokens"),
        ("ContextTokens,GeneratedTokens\n1,2\n3,x\n", r"mine\.csv, line 3, column GeneratedTokens: 'x'"),
        ("ContextTokens,GeneratedTokens\n1,0\n", r"mine\.csv, line 2, column GeneratedTokens: '0'"),
        ("ContextTokens,GeneratedTokens\n-1,1\n", r"mine\.csv, line 2, column ContextTokens: '-1'"),
        ("ContextTokens,GeneratedTokens\n1\n", r"mine\.csv, line 2, column GeneratedTokens: None"),
        ("ContextTokens,GeneratedTokens\n", r"mine\.csv: there is no request below the header"),
    ],
)
def test_a_wrong_file_is_answered_with_file_line_and_column(tmp_path, text, message):
    """Whoever brings a trace learns where it is wrong."""
    file = tmp_path / "mine.csv"
    file.write_text(text)
    with pytest.raises(SuiteError, match=message):
        read_trace(str(file))


def test_a_missing_file_names_the_shipped_traces():
    """A name that is neither a file nor an excerpt is answered with the excerpts."""
    with pytest.raises(SuiteError, match=r"azure-2023 cannot be read.*azure-conversation-2023"):
        read_trace("azure-2023")


def test_a_file_that_is_no_text_cannot_be_read(tmp_path):
    """Bytes that aren't UTF-8 are an error, not a traceback."""
    file = tmp_path / "mine.csv"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SuiteError, match="cannot be read"):
        read_trace(str(file))


def test_batches_of_unlike_lengths_have_unlike_keys():
    """What a workload's requests are like is part of a baseline's key."""
    workloads = (
        StaticBatch(8, 8),
        StaticBatch(8, 9),
        StaticBatch(lengths=TraceLengths(seed=0)),
        StaticBatch(lengths=TraceLengths(seed=1)),
    )
    assert len({tuple(workload_key(workload).items()) for workload in workloads}) == len(workloads)


def test_a_users_trace_is_keyed_by_its_content_and_not_by_its_folder(tmp_path):
    """Moving a checkout or changing line endings makes no baseline incomparable, and changing a length does."""
    contents = {
        "here": b"ContextTokens,GeneratedTokens\n10,5\n",
        "there": b"ContextTokens,GeneratedTokens\r\n10,5\r\n",
        "other": b"ContextTokens,GeneratedTokens\n10,6\n",
    }
    traces = []
    for folder, content in contents.items():
        file = tmp_path / folder / "mine.csv"
        file.parent.mkdir()
        file.write_bytes(content)
        traces.append(workload_key(StaticBatch(lengths=TraceLengths(str(file))))["trace"])
    here, there, other = traces
    assert here == there != other
    assert here.startswith("mine.csv sha256:")


def trace(folder, *times, name="mine.csv"):
    """A file with these arrival times, of requests of 8 and 4 tokens."""
    file = folder / name
    file.write_text(
        "".join(f"{row}\n" for row in ("TIMESTAMP,ContextTokens,GeneratedTokens", *(f"{at},8,4" for at in times)))
    )
    return str(file)


def test_the_excerpt_tells_when_its_requests_arrived():
    """Times count from the first request, to the microsecond, and go on for minutes."""
    arrived = read_arrivals("azure-conversation-2023")
    assert [at for at, _, _ in arrived[:3]] == [0.0, 4.314579, 4.541877]
    assert tuple((prompt, output) for _, prompt, output in arrived) == read_trace("azure-conversation-2023")
    assert 120 < arrived[-1][0] < 3600


@pytest.mark.parametrize(
    "times",
    [
        ["2024-05-10 00:00:00.5+00:00", "2024-05-10 01:00:01+01:00"],
        ["2024-05-10T00:00:00.5", "2024-05-10T00:00:01"],
        ["0", "0.5"],
        ["1715299200.5", "1715299201"],
    ],
)
def test_times_are_dates_or_seconds(tmp_path, times):
    """Of either the first request is the beginning."""
    assert [at for at, _, _ in read_arrivals(trace(tmp_path, *times))] == [0.0, 0.5]


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (["0", ""], "line 3, column TIMESTAMP: '' is no time"),
        (["-1", "0"], "line 2, column TIMESTAMP: '-1' is no time"),
        (["nan"], "line 2, column TIMESTAMP: 'nan' is no time"),
        (["0", "yesterday"], "line 3, column TIMESTAMP: 'yesterday' is no time"),
        (["0", "2", "1"], "line 4, column TIMESTAMP: '1' is before the request above"),
        (["0", "2024-05-10"], "line 3, column TIMESTAMP: '2024-05-10' is another kind of time"),
        (["2024-05-10", "2024-05-10 01:00+01:00"], "line 3, .* is another kind of time"),
    ],
)
def test_wrong_times_are_answered_with_file_line_and_column(tmp_path, times, message):
    """A hole, a negative time, one that can't be read and one before its predecessor are no arrivals."""
    with pytest.raises(SuiteError, match=rf"mine\.csv, {message}"):
        read_arrivals(trace(tmp_path, *times))


def test_a_trace_without_times_replays_nothing(tmp_path):
    """Its lengths can still be drawn."""
    file = tmp_path / "mine.csv"
    file.write_text("ContextTokens,GeneratedTokens\n8,4\n")
    with pytest.raises(SuiteError, match="line 1: there is no column TIMESTAMP"):
        recorded(Replay(str(file)), 64)


def test_a_part_of_a_trace_is_replayed():
    """So many of its own seconds, without what exceeds the context, which is counted."""
    offsets, lengths, left_out = recorded(Replay(seconds=60), 2048)
    assert offsets[-1] < 60
    assert len(offsets) == len(lengths)
    assert all(sum(one) <= 2048 for one in lengths)
    assert left_out + len(lengths) == sum(at < 60 for at, _, _ in read_arrivals("azure-conversation-2023"))
    with pytest.raises(SuiteError, match="fits into a context of 8 tokens"):
        recorded(Replay(seconds=60), 8)


def test_what_matters_of_arrivals_is_part_of_the_key(tmp_path):
    """A baseline of another load is incomparable; what isn't set is no field."""
    traced = [trace(tmp_path, *times, name=f"{times[1]}.csv") for times in (("0", "1"), ("0", "2"))]
    keys = [
        workload_key(StaticBatch(8, 4)),
        workload_key(ClosedLoop(8, 4)),
        workload_key(ClosedLoop(8, 4, shared_prefix_tokens=4)),
        workload_key(ClosedLoop(Uniform(8, 9), 4)),
        workload_key(OpenLoop(8, 4)),
        workload_key(OpenLoop(8, 4, burstiness=0.5)),
        workload_key(OpenLoop(8, 4, burstiness=float("inf"))),
        workload_key(OpenLoop(8, 4, ramp_s=2)),
        workload_key(OpenLoop(8, 4, max_concurrency=8)),
        workload_key(OpenLoop(8, 4), Slo(ttft_ms=200)),
        workload_key(OpenLoop(8, 4), Slo(tpot_ms=200)),
        workload_key(Replay()),
        workload_key(Replay(seconds=60)),
        *(workload_key(Replay(file)) for file in traced),
    ]
    assert len({tuple(key.items()) for key in keys}) == len(keys)
    assert keys[0] == {"workload": "static-batch", "prompt_tokens": 8, "output_tokens": 4}
    assert keys[9]["slo.ttft_ms"] == 200
    assert all(isinstance(value, str | int | float) for key in keys for value in key.values())
