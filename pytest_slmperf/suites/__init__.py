"""The suites of the paper, for whoever has the wheel alone: `pytest --slmperf --pyargs pytest_slmperf.suites`.

In the repository they lie in `suites/`; the wheel puts them here.
"""
