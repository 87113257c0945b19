"""What a launch and its worker say to each other arrives as it was sent, and nothing else is taken for it."""

import json
from types import MappingProxyType
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_slmperf.core import protocol
from pytest_slmperf.core.engine import EngineFacts, EngineSpec, Served
from pytest_slmperf.core.launch import Load
from pytest_slmperf.core.protocol import BadMessage, Failed, Measured, OtherVersion, decode, encode

finite = st.floats(allow_nan=False, allow_infinity=False)
settings = st.dictionaries(st.text(), st.text() | st.integers() | finite | st.booleans())
specs = st.builds(EngineSpec, options=settings, planted_loss=finite)
phases = st.dictionaries(st.text(), finite)
facts = st.builds(EngineFacts, settings=settings, startup_s=st.none() | finite, phases_s=phases)
stamps = st.lists(st.lists(st.integers()).map(tuple)).map(tuple)
served = st.builds(Served, token_ns=st.none() | stamps)
messages = st.one_of(
    st.builds(protocol.Hello),
    st.builds(protocol.Start, spec=specs),
    st.builds(protocol.Ready, facts=facts, versions=st.dictionaries(st.text(), st.text())),
    st.builds(protocol.Prepare, load=st.builds(Load), round_s=finite),
    st.builds(protocol.Prepared, batch_s=finite),
    st.builds(protocol.Round),
    st.builds(protocol.Measured, observed=st.lists(served).map(tuple)),
    st.builds(protocol.MeasurePeak, load=st.builds(Load)),
    st.builds(protocol.PeakMeasured),
    st.builds(protocol.Question),
    st.builds(protocol.Answers),
    st.builds(protocol.Stop),
    st.builds(protocol.Failed),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(messages)
def test_a_message_arrives_as_it_was_sent_on_one_line(message):
    """Whatever text and numbers its fields hold, line breaks among them."""
    line = encode(message)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    arrived = decode(line)
    assert arrived == message
    assert type(arrived) is type(message)


@given(messages, st.integers().filter(lambda version: version != protocol.VERSION))
def test_another_version_is_said_to_be_one(message, version):
    """A worker of another release is told by both versions, not by the first field that differs."""
    content = json.loads(encode(message)) | {"slmperf": version}
    with pytest.raises(OtherVersion, match=f"protocol {version}.* speaks {protocol.VERSION}"):
        decode(json.dumps(content).encode())


@given(st.binary())
def test_bytes_that_are_no_message_are_refused(garbage):
    """Whatever an engine prints, only BadMessage comes out."""
    with pytest.raises(BadMessage):
        decode(garbage)


@given(st.sampled_from(get_args(protocol.Message)), st.dictionaries(st.text(), json_values))
def test_an_object_of_other_fields_is_no_message(kind, content):
    """Whatever it holds, only BadMessage comes out."""
    content |= {"slmperf": protocol.VERSION, "kind": kind.__name__.lower(), "surplus": 1}
    with pytest.raises(BadMessage):
        decode(json.dumps(content).encode())


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"loading model...\n", "not JSON: 'loading model...'"),
        (b"[1, 2]\n", "not a message"),
        (b'{"slmperf": VERSION}\n', "unknown kind None"),
        (b'{"slmperf": VERSION, "kind": ["round"]}\n', "unknown kind"),
        (b'{"slmperf": VERSION, "kind": "dance"}\n', "unknown kind 'dance'"),
        (b'{"slmperf": VERSION, "kind": "round", "batches": 1}\n', "round: no observe"),
        (b'{"slmperf": VERSION, "kind": "round", "batches": 1.5, "observe": true}\n', "round.batches: '1.5' where"),
        (b'{"slmperf": VERSION, "kind": "round", "batches": true, "observe": true}\n', "round.batches: 'True' where"),
        (b'{"slmperf": VERSION, "kind": "failed", "cause": "mood", "message": ""}\n', "failed.cause: "),
        (b'{"slmperf": VERSION, "kind": "stop", "now": true}\n', "stop: unknown now"),
        (b"x" * 5000, "5000 bytes"),
    ],
)
def test_a_refusal_says_what_is_wrong(line, complaint):
    """The kind and the field stand in it, or the begin of what was said instead."""
    with pytest.raises(BadMessage) as refused:
        decode(line.replace(b"VERSION", str(protocol.VERSION).encode()))
    assert complaint in str(refused.value)


def test_a_number_that_json_does_not_know_is_not_sent():
    """NaN is refused where it is sent, not where it would arrive."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode(protocol.Prepare(Load("case", ((1, 1),), 0), float("nan"), 1))


def test_whole_numbers_are_taken_for_seconds():
    """JSON written by another language may say 1 for 1.0."""
    prepare = protocol.Prepare(Load("case", ((1, 2),), 0), 1.0, 3)
    line = encode(prepare).replace(b'"round_s":1.0', b'"round_s":1')
    assert decode(line) == prepare


def test_observed_batches_of_ten_thousand_tokens_arrive():
    """A round's token times are one message however many there are."""
    batch = Served(0, 10, (128,) * 80, tuple(tuple(range(128)) for _ in range(80)))
    measured = Measured(0, 10, 80, 80, 10_240, (batch,))
    assert decode(encode(measured)) == measured


def test_settings_may_be_any_mapping():
    """A read-only mapping is sent like a dict, and arrives as one."""
    spec = EngineSpec("fake", "tiny", options=MappingProxyType({"level": 2.5}))
    assert decode(encode(protocol.Start(spec))) == protocol.Start(EngineSpec("fake", "tiny", options={"level": 2.5}))


def test_a_failure_names_its_cause():
    """Cause and words arrive, and what the engine was doing may be left out."""
    assert decode(encode(Failed("memory", "all of it"))) == Failed("memory", "all of it", "")
