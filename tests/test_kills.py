"""SIGKILL at random moments, a few times; the same script, benchmarks/kills.py, also does it hundreds of times."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "kills.py"


RUNS = [
    "--kills 1",
    "--kills 6",
    "--kills 2 --ray --objective",
    "--kills 2 --ray --objective --searcher bayes --scheduler ASHA",
    "--kills 2 --ray --objective --scheduler PBT --trials 4",
]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("arguments", [pytest.param(run.split(), marks=() if run == RUNS[0] else pytest.mark.slow, id=run) for run in RUNS])
def test_nothing_is_lost(arguments):
    done = subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["kills"] == int(arguments[1])
    assert found["temporary files left"] == []
