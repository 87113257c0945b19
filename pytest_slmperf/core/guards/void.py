"""Guards that throw a round away, by their names, and what helps against what each of them found."""

from collections.abc import Mapping

AGAIN = "and run again"

WAYS_OUT: Mapping[str, str] = {
    # of a CPU's cores, and of the round itself
    "contended": f"free the machine of other work {AGAIN}",
    "stolen": f"run where other guests of the host leave it its cores (a dedicated one, or another hour), {AGAIN}",
    "slowed": f"hold the clock of its cores (governor performance, no boost), free their other halves {AGAIN}",
    "suspended": f"keep the machine awake (systemd-inhibit) {AGAIN}",
    "clock": f"wait until the machine's time service has settled {AGAIN}",
    "package": f"free the machine of other work, on whatever core: its joules are those of all of them, {AGAIN}",
    "short": "its pace changes from round to round: raise round_s in [tool.slmperf]",
    # of the cores or of a board
    "throttled": f"look after its cooling and power supply (of a GPU: nvidia-smi -q -d PERFORMANCE) {AGAIN}",
    # of a board
    "foreign": f"free the board of other work (nvidia-smi lists its processes) {AGAIN}",
    "temperature": f"let the board get warm before it is measured: raise lead_in_s in [tool.slmperf], {AGAIN}",
    "power limit": f"find what sets its power limit while it is measured (nvidia-smi -pl), {AGAIN}",
    "board": "let the engine use the board whose joules are counted (its option device_index), and the same to the end",
    "ecc": "look after the board, its memory errs: nvidia-smi -q -d ECC, reset it, and replace it if it errs again",
    "xid": "look up the Xid in the kernel's log (dmesg) and in the driver's list: a driver or a board that fails",
    "reset": f"find who resets the board or its driver {AGAIN}",
    "stuck": "its energy counter doesn't move: reload the driver, or gate no joules on this board",
    "unreadable": f"find why its counter can't be read (slmperf doctor) {AGAIN}",
    # of requests that come and go
    "errors": f"see the first error, and the engine's log; where answers take too long, send fewer requests {AGAIN}",
    "unanswered": f"send fewer requests at a time, or take this place out of the sweep; see the engine's log, {AGAIN}",
    "answers": "let the engine go on past its end-of-sequence token, and ask for no more than its context holds",
    "late": f"give whoever sends a core of its own, or send fewer requests a second, {AGAIN}",
    "sender": f"give whoever sends a core of its own, or send fewer requests a second, {AGAIN}",
    "cached": "turn the engine's prefix cache off, or say in the workload what prompts share: shared_prefix_tokens",
    "preempted": "give the engine more memory for its KV cache, or send fewer requests at a time",
    "restarted": f"find in the engine's log why it was started anew, {AGAIN}",
    "unsteady": "raise traffic_s in [tool.slmperf]: the load must outlast its own beginning",
    # of joules
    "window": "raise window_s in [tool.slmperf]: the load must outlast what the meter needs",
}
"""By the guard's name."""
RUN_AGAIN = "run again, where nothing disturbs it"
"""Where no guard is named."""


def way_out(guard: str) -> str:
    """What helps against what this guard found."""
    return WAYS_OUT.get(guard, RUN_AGAIN)
