"""How fast cores read and multiply. Run by its path, with the cores' numbers and the sets' sizes, it prints JSON.

Reading is taken as STREAM does (McCalpin, 1995): each core goes over a set of its own, all at once, and the best of
several times counts, since whatever disturbs only ever slows. Times are of the core's own work, without those in which
another program had it.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from threading import Barrier, Thread

ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Variables of the libraries that multiply: each core has a thread of its own here."""
LEAST_S = 0.004
"""That a core does the same for, at the least."""
TRIES = 4
ROWS = 512
"""Of the square matrices: 1 MiB each, which a core's own cache holds."""
NS_PER_S = 1e9


def main(cores: Sequence[int], sets: Sequence[int]) -> None:
    """Measure, and print what `run.roofs` reads: sets are in bytes for each core, ascending."""
    os.environ.update(dict.fromkeys(ONE_THREAD, "1"))
    import numpy as np  # noqa: PLC0415 - it looks at the variables when it is imported

    together, found = Barrier(len(cores)), []

    def of_one(core: int) -> None:
        os.sched_setaffinity(0, {core})
        matrix = np.ones((ROWS, ROWS), np.float32)
        product = np.empty_like(matrix)
        flops = _best(together, lambda: np.matmul(matrix, matrix, out=product), 2 * ROWS**3)
        values = np.ones(sets[-1] // 4, np.float32)
        parts = [values[: size // 4] for size in sets]
        readings = [_best(together, partial(np.maximum.reduce, part), part.nbytes) for part in parts]
        found.append((flops, readings))

    threads = [Thread(target=of_one, args=(core,)) for core in cores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rates = [sum(readings) for readings in zip(*(readings for _, readings in found), strict=True)]
    totals = [size * len(cores) for size in sets]
    flops = sum(flops for flops, _ in found)
    print(json.dumps({"readings": list(zip(totals, rates, strict=True)), "flops": {"float32": flops}}))  # noqa: T201


def _best(together: Barrier, work: Callable[[], object], amount: float) -> float:
    """What a core does in a second at its best, of a piece of work that it does again until some time has passed."""
    best = 0.0
    work()
    for _ in range(TRIES):
        together.wait()
        began_ns = now_ns = time.thread_time_ns()
        times = 0
        while now_ns - began_ns < LEAST_S * NS_PER_S:
            work()
            times += 1
            now_ns = time.thread_time_ns()
        best = max(best, times * amount / (now_ns - began_ns) * NS_PER_S)
    return best


if __name__ == "__main__":
    main(*([int(one) for one in given.split(",")] for given in sys.argv[1:3]))
