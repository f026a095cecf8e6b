"""What a long search costs in addition to its trials: 1,000 trials of an objective that returns at once, one after another, in one search.

Per trial: the time from one trial's start to the next, for the first and the last hundred; their ratio shows whether a search slows down as it grows.
Memory: resident bytes of the driver when trial 100, 200, ... 1,000 starts, and the least-squares slope from trial 200 on, in kB per trial.
Then, each in its own process: the same call again, which finds a finished search and should do nothing, and the call with num_trials raised by 10. Their
times are those of the call alone, including Ray's start if Ray is needed, but not imports.

`--profile` adds cProfile's longest functions of the search.
"""

from __future__ import annotations

import cProfile
import json
import os
import pstats
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import parser, print_figure, print_header, print_machine

MORE = 10  # trials that the raised search adds


def objective(config: dict[str, Any]) -> float:
    return float(config["x"])


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def measure(num_trials: int, searcher: str, profiled: bool) -> dict[str, Any]:
    """Measures one call of ``tune_objective`` that saves to ``search`` in the working directory."""
    from ray import tune  # imported before the clock starts

    from automm_hpo import tune_objective
    from automm_hpo.hpo.monitor import SearchMonitor

    starts: list[tuple[float, float]] = []
    told = SearchMonitor.trial_started

    def noted(monitor: SearchMonitor, number: int) -> None:
        told(monitor, number)
        starts.append((time.time(), resident_mb()))

    SearchMonitor.trial_started = noted  # type: ignore[method-assign]
    profile, called = cProfile.Profile(), time.time()
    if profiled:
        profile.enable()
    results = tune_objective(
        objective,
        {"x": tune.uniform(0, 1)},
        {"searcher": searcher, "scheduler": "FIFO", "num_trials": num_trials, "max_concurrent_trials": 1},
        mode="max",
        save_path="search",
        tracking=None,
        verbosity=0,
    )
    returned = time.time()
    profile.disable()
    if len(results) != num_trials or any(trial.best is None for trial in results.trials):
        raise SystemExit(f"not all trials came to an end: {results}")
    if profiled:
        pstats.Stats(profile, stream=sys.stderr).sort_stats("tottime").print_stats(25)
    times, memory = [list(column) for column in zip(*starts, strict=True)] if starts else ([], [])
    return {"seconds": returned - called, "starts": times, "memory": memory, "after": returned - times[-1] if times else 0.0}


def in_fresh_process(folder: str, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--measure", *arguments]
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    arguments = parser(__doc__, runs=1)
    arguments.add_argument("--trials", type=int, default=1000, help="trials of the search, at least 300 (default 1,000)")
    arguments.add_argument("--searcher", default="random", help="its own cost, which may grow, is among what is measured (default random)")
    arguments.add_argument("--profile", action="store_true", help="cProfile of the first run; slower, its figures do not count")
    options = arguments.parse_args()
    print_machine()
    gaps: dict[str, list[float]] = {"first": [], "last": [], "all": []}
    memory, slopes, seconds, resumed, raised = [], [], [], [], []
    for run in range(options.runs):
        with tempfile.TemporaryDirectory() as folder:
            how = (options.searcher, str(int(options.profile and run == 0)))
            search = in_fresh_process(folder, str(options.trials), *how)
            between = np.diff(search["starts"])
            for name, part in (("first", between[:100]), ("last", between[-100:]), ("all", between)):
                gaps[name].append(1000 * float(np.median(part)))
            memory.append(search["memory"][99::100])
            slopes.append(1000 * float(np.polyfit(np.arange(200, options.trials), search["memory"][200:], 1)[0]))
            seconds.append(search["seconds"])
            resumed.append(in_fresh_process(folder, str(options.trials), options.searcher, "0")["seconds"])
            raised.append(in_fresh_process(folder, str(options.trials + MORE), options.searcher, "0")["seconds"])
    print_header(options.runs)
    print_figure(f"whole search of {options.trials} trials", seconds, "s")
    print_figure("a trial, median", gaps["all"], "ms")
    print_figure("  of the first 100", gaps["first"], "ms")
    print_figure("  of the last 100", gaps["last"], "ms")
    print_figure("  last 100 / first 100", [last / first for first, last in zip(gaps["first"], gaps["last"], strict=True)], "")
    print_figure("driver's memory, slope from trial 200 on", slopes, "kB/trial")
    print_figure("the same call again, finished", resumed, "s")
    print_figure(f"raised to {options.trials + MORE} trials", raised, "s")
    print("\nresident memory of the driver, MB, at each hundredth trial: " + " | ".join(", ".join(f"{size:.0f}" for size in sizes) for sizes in memory))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(int(sys.argv[2]), sys.argv[3], sys.argv[4] == "1")))
    else:
        main()
