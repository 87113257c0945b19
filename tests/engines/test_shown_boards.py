"""Which GPUs a server that is started may see."""

import pytest

from pytest_slmperf.engines.server import shown_boards


@pytest.mark.parametrize(
    ("visible", "first", "count", "shown"),
    [
        (None, 0, 2, "0,1"),
        (None, 1, 1, "1"),
        ("3,2,1", 1, 2, "2,1"),
        ("GPU-a,GPU-b", 0, 1, "GPU-a"),
        ("GPU-a", 0, 2, "GPU-a,1"),
        ("", 1, 1, "1"),
    ],
)
def test_a_server_sees_as_many_gpus_as_it_spreads_over_from_its_index_on(monkeypatch, visible, first, count, shown):
    """Of those that this process may see, as it names them."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert shown_boards(first, count) == shown
