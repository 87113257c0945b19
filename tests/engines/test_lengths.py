"""Lengths come from the suite, from the excerpt that ships, or from a user's file."""

import pytest

from pytest_slmperf.core.errors import SuiteError
from pytest_slmperf.core.workload import StaticBatch, TraceLengths
from pytest_slmperf.engines.lengths import draw_lengths, read_trace, workload_key


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
