"""The verbs as their tests call them."""

import pytest

from pytest_slmperf.cli import main


@pytest.fixture
def verb_here(tmp_path, monkeypatch, capsys):
    """Makes what runs a verb in an empty project, and returns the exit code, and what was printed where."""
    monkeypatch.chdir(tmp_path)

    def of(verb):
        def run(*words):
            try:
                code = main([verb, *map(str, words)])
            except SystemExit as ended:
                code = ended.code
            printed = capsys.readouterr()
            return code, printed.out, printed.err

        return run

    return of


@pytest.fixture
def advise_here(verb_here):
    """Runs the verb `advise` in an empty project."""
    return verb_here("advise")
