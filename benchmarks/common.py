"""Shared by the benchmarks: their arguments, the description of the machine, and the printing of figures."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("torch", "timm", "ray", "mlflow", "optuna", "scikit-learn", "numpy")


def parser(doc: str, runs: int = 5) -> argparse.ArgumentParser:
    """Returns a parser with the arguments common to all benchmarks; ``doc`` is the script's docstring."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=runs, help=f"repetitions (default {runs})")
    return parser


def print_machine() -> None:
    """Prints the machine and the versions. A load above 0 before the start means that other processes were running too."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(f"machine   {_processor()}, {cores} cores, {platform.system()} {platform.machine()}, load before the start {os.getloadavg()[0]:.1f}")
    print(f"versions  python {platform.python_version()}, " + ", ".join(f"{name} {version(name)}" for name in PACKAGES))


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def print_figure(name: str, values: Sequence[float], unit: str, goal: str = "", digits: int = 2) -> None:
    """Prints one line: min, median and max over the runs."""
    lowest, middle, highest = (f"{value:,.{digits}f}" for value in (min(values), statistics.median(values), max(values)))
    print(f"{name:<58}{lowest:>11}{middle:>11}{highest:>11} {unit:<9}{goal}".rstrip())


def print_header(runs: int) -> None:
    print(f"\n{f'{runs} runs' if runs > 1 else '1 run':<58}{'min':>11}{'median':>11}{'max':>11}")


@dataclass(frozen=True)
class Figure:
    """A quantity measured once per run.

    Attributes:
        at_least, at_most: the goal, a bound on the median; None: no such bound.
    """

    name: str
    values: Sequence[float]
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None
    digits: int = 2

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def goal(self) -> str:
        if self.at_least is None and self.at_most is None:
            return ""
        met = self.median >= self.at_least if self.at_least is not None else self.median <= (self.at_most or 0)
        limit = f">= {self.at_least:g}" if self.at_least is not None else f"<= {self.at_most:g}"
        return f"{limit} {'met' if met else 'MISSED'}"


def print_figures(figures: Sequence[Figure], runs: int) -> None:
    print_header(runs)
    for figure in figures:
        print_figure(figure.name, figure.values, figure.unit, figure.goal, figure.digits)
