"""Models of tiny shapes, made once for all tests of the engines."""

from importlib.util import find_spec

import pytest

from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.core.shapes import SHAPES
from pytest_slmperf.engines.cache import CACHE_VARIABLE
from pytest_slmperf.engines.ctranslate2 import CTranslate2, write_model

# torch is half a gigabyte and more: its engine's tests belong to an environment of their own, tox run -e transformers.
collect_ignore = [] if find_spec("torch") else ["test_transformers.py"]


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """A folder of its own for the weights of these tests."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def tiny(cache):
    """A started engine with two layers of 64, for the tests that only serve."""
    engine = CTranslate2(EngineSpec("ctranslate2", "tiny-2x64"), cache=cache)
    engine.start()
    yield engine
    engine.stop()


@pytest.fixture
def converted(tmp_path, cache, monkeypatch):
    """A folder as ct2-transformers-converter makes it, with a model that no table knows."""
    monkeypatch.setenv(CACHE_VARIABLE, str(cache))
    folder = tmp_path / "my-model"
    folder.mkdir()
    write_model(SHAPES["tiny-2x64"], "float32", folder)
    return folder
