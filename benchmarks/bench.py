"""All speed measurements, shortened, as one table: `make bench` on a CPU (about 5 minutes), `make bench-gpu` on a GPU.

The table is printed and written to build/bench.md or build/bench-gpu.md. Each group of rows comes from its own script, which documents what it measures
and can take more runs: loop_vs_floor.py, search_vs_bare.py, predict_speed.py, kept_on_disk.py; gpu.py on a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import time
import traceback
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from common import Figure, print_machine


def on_a_processor() -> dict[str, Callable[[], list[Figure]]]:
    import kept_on_disk
    import loop_vs_floor
    import predict_speed
    import search_vs_bare

    return {
        "the loop": lambda: loop_vs_floor.measure(3),
        "predictions": lambda: predict_speed.measure(3),
        "checkpoints": lambda: kept_on_disk.measure(1),
        "a search": lambda: search_vs_bare.measure(1, (4,)),
    }


def on_a_gpu(cifar10: Path | None) -> dict[str, Callable[[], list[Figure]]]:
    import gpu

    return {
        "the loop": lambda: gpu.measure_loop(3),
        "trials that share the GPU": lambda: gpu.measure_packing(1),
        "CIFAR-10": lambda: gpu.measure_cifar10(cifar10),
    }


def row(figure: Figure) -> str:
    lowest, highest = (f"{value:,.{figure.digits}f}" for value in (min(figure.values), max(figure.values)))
    return f"| {figure.name} | {figure.median:,.{figure.digits}f} {figure.unit} | {lowest} to {highest} | {figure.goal} |"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--gpu", action="store_true")
    arguments.add_argument("--cifar10", type=Path, help=".npz file of CIFAR-10, for a GPU without a network")
    options = arguments.parse_args()
    where = io.StringIO()
    with contextlib.redirect_stdout(where):
        print_machine()
    lines = [*where.getvalue().splitlines(), "", "| what | median | range | goal |", "|---|---|---|---|"]
    started = time.time()
    place = Path(__file__).parent.parent / "build" / ("bench-gpu.md" if options.gpu else "bench.md")
    place.parent.mkdir(exist_ok=True)
    failed = False
    for name, measure in (on_a_gpu(options.cifar10) if options.gpu else on_a_processor()).items():
        print(f"{time.time() - started:4.0f} s  {name} ...", flush=True)
        try:
            lines += map(row, measure())
        except Exception:  # the other groups have their rows all the same
            traceback.print_exc()
            lines.append(f"| {name}: failed | | | |")
            failed = True
        place.write_text("\n".join(lines) + "\n")
    lines += ["", f"{time.time() - started:.0f} s in all"]
    table = "\n".join(lines) + "\n"
    print(f"\n{table}")
    place.write_text(table)
    if failed:
        raise SystemExit("a group of figures failed")


if __name__ == "__main__":
    main()
