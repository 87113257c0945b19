"""Engines are found by name, our own and those of other packages."""

import re
import tomllib
from pathlib import Path

import pytest

from pytest_slmperf.core.engine import EngineSpec, Request
from pytest_slmperf.core.errors import EngineUnavailable
from pytest_slmperf.engines.ctranslate2 import CTranslate2
from pytest_slmperf.engines.planted import Slowed
from pytest_slmperf.engines.registry import available, best, create, streams

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLES = DOCS / "examples"


def install(folder, monkeypatch, **engines):
    """Install a distribution that registers these engines, as its files would lie in site-packages."""
    metadata = folder / "echo-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: echo\nVersion: 1.0\n")
    lines = "".join(f"{name} = {target}\n" for name, target in engines.items())
    (metadata / "entry_points.txt").write_text(f"[slmperf.engines]\n{lines}")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.syspath_prepend(str(EXAMPLES))


def test_the_documented_engine_serves(tmp_path, monkeypatch):
    """The example of docs/engines.md is found through the entry point of that page and keeps to the protocol."""
    (shown,) = re.findall(r"```toml\n(.*?)```", (DOCS / "engines.md").read_text(encoding="utf-8"), re.DOTALL)
    install(tmp_path, monkeypatch, **tomllib.loads(shown)["project"]["entry-points"]["slmperf.engines"])
    engine = create(EngineSpec("echo", "anything"))
    facts = engine.start()
    served = engine.serve((Request((16, 17), 3), Request((18,), 5)), observe=True)
    engine.stop()
    assert facts.device == "simulated"
    assert served.output_tokens == (3, 5)
    assert tuple(map(len, served.token_ns)) == (3, 5)


def test_an_unknown_engine_names_the_known_ones(tmp_path, monkeypatch):
    """A misspelt engine is answered with all that are registered, and how one registers."""
    install(tmp_path, monkeypatch, echo="echo_engine:create")
    known = r"unknown engine 'vlm'.*ctranslate2, transformers, .*fake, echo.*slmperf\.engines"
    with pytest.raises(EngineUnavailable, match=known):
        create(EngineSpec("vlm", "opt-125m"))


def test_an_engine_that_cannot_be_imported_says_so(tmp_path, monkeypatch):
    """A registered engine whose module is gone is unavailable, with what was looked for."""
    install(tmp_path, monkeypatch, gone="no_such_module:create", half="echo_engine:creat")
    with pytest.raises(EngineUnavailable, match=r"gone \(no_such_module:create\) cannot be imported"):
        create(EngineSpec("gone", "x"))
    with pytest.raises(EngineUnavailable, match=r"half \(echo_engine:creat\) cannot be imported"):
        create(EngineSpec("half", "x"))


def test_a_built_in_name_stays_ours(tmp_path, monkeypatch):
    """Another package cannot put itself in the place of an engine of ours."""
    install(tmp_path, monkeypatch, ctranslate2="echo_engine:create")
    assert isinstance(create(EngineSpec("ctranslate2", "tiny-2x64")), CTranslate2)


def test_all_engines_are_listed_with_what_they_lack(tmp_path, monkeypatch):
    """The list says of each engine whether this interpreter can use it, and else what to do."""
    install(tmp_path, monkeypatch, echo="echo_engine:create", gone="no_such_module:create")
    listed = {engine.name: engine for engine in available()}
    assert all(listed[name].usable for name in ("ctranslate2", "fake", "echo"))
    assert "no_such_module cannot be found" in listed["gone"].missing


def test_an_engine_says_whether_it_streams(tmp_path, monkeypatch):
    """Of ours the table says it, of another package its factory; one that can't be imported here is tried."""
    (tmp_path / "flow.py").write_text("def create(spec): ...\ncreate.streams = True\n")
    install(tmp_path, monkeypatch, echo="echo_engine:create", flow="flow:create", gone="no_such_module:create")
    assert not any(map(streams, ("ctranslate2", "transformers", "echo")))
    assert all(map(streams, ("fake", "flow", "gone")))


def test_the_best_engine_does_the_work_itself():
    """What is measured by default is a real engine, never the simulated one."""
    assert best() == "ctranslate2"


def test_a_planted_loss_slows_any_engine():
    """A spec with a loss gets its engine slowed down, one without gets it as it is."""
    assert isinstance(create(EngineSpec("ctranslate2", "tiny-2x64", planted_loss=0.2)), Slowed)
    assert isinstance(create(EngineSpec("ctranslate2", "tiny-2x64")), CTranslate2)
