"""The verb `advise` as its tests call it."""

import pytest

from pytest_slmperf.cli import main


@pytest.fixture
def advise_here(tmp_path, monkeypatch, capsys):
    """Runs the verb in an empty project. Returns the exit code, and what was printed where."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        try:
            code = main(["advise", *map(str, words)])
        except SystemExit as ended:
            code = ended.code
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run
