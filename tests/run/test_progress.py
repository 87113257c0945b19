"""Where a run is, as a terminal and a log show it."""

from pytest_slmperf.core.engine import EngineSpec
from pytest_slmperf.run.progress import Progress, duration

TINY, LARGE = EngineSpec("e", "tiny"), EngineSpec("e", "large")


class Terminal:
    """Keeps the lines, and a clock that a test sets."""

    rewrites = True

    def __init__(self):
        self.lines = []
        self.now_s = 0.0

    def show(self, line, *, replace):  # noqa: ARG002 - the screen's protocol
        self.lines.append(line)

    def clock(self):
        return self.now_s


class Run:
    """Launches that take as long as a test says."""

    def __init__(self):
        self.terminal = Terminal()
        self.progress = Progress(self.terminal, clock=self.terminal.clock)

    def launch(self, spec, seconds, *cases, arm="candidate"):
        """Returns the line that it began with."""
        self.progress.launching(spec, cases, arm)
        self.terminal.now_s += seconds
        return self.terminal.lines[-1]


def test_time_left_is_what_the_launches_took():
    """Nothing is said of it before one has measured: the launch that primes an engine is far shorter."""
    run = Run()
    assert run.launch(TINY, 2) == "slmperf: e tiny: launch 1: starting"
    run.progress.planned({("candidate", "d/tiny"): 8}, 1)
    assert run.launch(TINY, 60, "d/tiny/one") == "slmperf: e tiny: launch 2 of about 9: d/tiny/one"
    assert run.launch(TINY, 60, "d/tiny/one") == "slmperf: e tiny: launch 3 of about 9: d/tiny/one, about 7 min left"
    run.progress.round("d/tiny/one", 4, 4)
    assert run.terminal.lines[-1].endswith("launch 3 of about 9, round 4 of 4: d/tiny/one, about 6 min left")


def test_each_engine_is_expected_to_take_what_it_took():
    """No time is said before each was measured once, and a small model's launch says nothing of a large one's."""
    run = Run()
    run.progress.planned({("candidate", "d/tiny"): 4, ("candidate", "d/large"): 4}, 2)
    assert "left" not in run.launch(TINY, 1, "d/tiny/one")
    assert "left" not in run.launch(LARGE, 1000, "d/large/one")
    run.progress.planned({("candidate", "d/tiny"): 3, ("candidate", "d/large"): 3}, 4)
    assert run.launch(TINY, 1, "d/tiny/one").endswith("launch 5 of about 10: d/tiny/one, about 50 min left")


def test_the_last_launch_counts():
    """The cases that are decided are measured no more, and what is left of an engine takes less."""
    run = Run()
    run.progress.planned({("candidate", "d/tiny"): 3}, 0)
    run.launch(TINY, 60, "d/tiny/one", "d/tiny/four")
    run.launch(TINY, 20, "d/tiny/one")
    assert run.launch(TINY, 20, "d/tiny/one").endswith("launch 3 of about 3: d/tiny/one, about 20 s left")


def test_the_arms_have_times_of_their_own():
    """Another version may be slower."""
    run = Run()
    run.progress.planned({("candidate", "d/tiny"): 2, ("baseline", "d/tiny"): 2}, 0)
    run.launch(TINY, 10, "d/tiny/one")
    run.launch(TINY, 30, "d/tiny/one", arm="baseline")
    assert run.launch(TINY, 10, "d/tiny/one").endswith("about 40 s left")


def test_a_campaign_leaves_no_time_to_the_next():
    """Its launches are others."""
    run = Run()
    run.progress.planned({("candidate", "d/tiny"): 2}, 0)
    run.launch(TINY, 10, "d/tiny/one")
    run.progress.done()
    assert run.terminal.lines[-1] == ""
    assert run.launch(TINY, 10) == "slmperf: e tiny: launch 1: starting"


def test_a_round_that_is_repeated_says_why():
    """However long that lasts, nobody is told that the launch starts."""
    run = Run()
    run.progress.planned({("candidate", "d/tiny"): 2}, 0)
    run.launch(TINY, 20, "d/tiny/one")
    run.progress.retrying("requests were sent\n5 ms late", 2, 5)
    assert run.terminal.lines[-1] == (
        "slmperf: e tiny: launch 1 of about 2: d/tiny/one: its round was void, try 2 of 5: requests were sent 5 ms late"
    )


def test_a_log_says_what_is_measured_right_after_the_start():
    """It has a line at most every 15 s, and a launch that measures nothing doesn't take it from the first that does."""
    run = Run()
    run.terminal.rewrites = False
    run.progress.planned({("candidate", "d/tiny"): 3}, 0)
    for cases, seconds in (((), 2), (("d/tiny/one",), 10), (("d/tiny/one",), 10), (("d/tiny/one",), 10)):
        run.launch(TINY, seconds, *cases)
    assert [line.partition("launch ")[2].partition(",")[0] for line in run.terminal.lines] == [
        "1 of about 4: starting",
        "2 of about 4: d/tiny/one",
        "4 of about 4: d/tiny/one",
    ]


def test_durations_are_coarse():
    """In the unit that fits."""
    assert [duration(seconds) for seconds in (1, 89, 90, 5399, 5400)] == ["1 s", "89 s", "2 min", "90 min", "1.5 h"]
