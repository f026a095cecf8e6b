"""The caller's process, and where a warning points."""

import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

from automm_hpo.hpo.search import RAY_FILES, remove_orphans
from automm_hpo.tracking import MlflowTracker


def test_a_warning_points_at_the_users_line(here, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://nowhere")
    tracker = MlflowTracker(here, "run", {}, {})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tracker.close("FINISHED")
    assert [Path(warning.filename).name for warning in caught] == [Path(__file__).name]


def test_what_killed_searches_left_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    names = {f"{RAY_FILES}{dead.pid}_x": False, f"{RAY_FILES}{os.getpid()}_x": True, f"{RAY_FILES}x": True}
    for name in names:
        (tmp_path / name).mkdir()
    remove_orphans()
    assert {name: (tmp_path / name).exists() for name in names} == names
