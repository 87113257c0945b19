"""Options of an engine, checked by the fields of its dataclass."""

from dataclasses import dataclass

import pytest

from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.errors import EngineUnavailable
from pytest_slmperf.engines.options import options_of, refuse_unknown


@dataclass(frozen=True)
class Options:
    """Each kind of field that an engine's options have."""

    device: str = "cpu"
    index: int = 0
    share: float = 0.5
    compiled: bool = False
    context: int | None = None


def spec(**options):
    return EngineSpec("mine", "m", options=options)


def test_what_is_given_replaces_a_default():
    """Fields that may be None take their other type."""
    assert options_of(Options, spec()) == Options()
    given = {"device": "cuda", "index": 1, "share": 0.1, "compiled": True, "context": 512}
    assert options_of(Options, spec(**given)) == Options(**given)


def test_a_whole_number_is_a_number():
    """A limit of 60 seconds is written so on a command line."""
    assert options_of(Options, spec(share=60)).share == 60


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"devise": "cpu"}, "mine has no option 'devise'; it knows device, index, share, compiled, context"),
        ({"index": "0"}, "mine: index='0' must be of type int"),
        ({"index": True}, "mine: index=True must be of type int"),
        ({"share": True}, "mine: share=True must be of type float"),
        ({"share": "1"}, "mine: share='1' must be of type float"),
        ({"compiled": 1}, "mine: compiled=1 must be of type bool"),
        ({"context": 0.5}, "mine: context=0.5 must be of type int"),
    ],
)
def test_what_has_no_field_or_another_type_is_refused(given, said):
    """The engine, the option and what it takes are named."""
    with pytest.raises(EngineUnavailable, match=said):
        options_of(Options, spec(**given))


def test_an_unknown_choice_is_answered_with_those_that_are_known():
    """Nothing is taken in place of what was asked for."""
    refuse_unknown(spec(), "device", "cpu", ("cpu", "cuda"))
    with pytest.raises(EngineUnavailable, match="mine: device='tpu'; it knows cpu, cuda"):
        refuse_unknown(spec(), "device", "tpu", ("cpu", "cuda"))
