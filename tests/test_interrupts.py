"""Ctrl-C, SIGTERM and moving the folder lose nothing, and the training can be resumed."""

import json
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from automm_hpo import MultiModalPredictor
from automm_hpo.errors import SavePathExists

FIT = """
    import sys
    from automm_hpo import MultiModalPredictor
    import pandas as pd
    import torch

    torch.set_num_threads(1)
    hyperparameters = {
        "model.timm_image.checkpoint_name": "test_resnet",
        "model.timm_image.pretrained": False,
        "model.timm_image.image_size": 32,
        "env.batch_size": 16,
        "optim.lr": 3e-3,
        "optim.max_epochs": 30,
        "optim.patience": 30,
        "optim.top_k_average_method": "best",
    }
    MultiModalPredictor("label", verbosity=1).fit(pd.read_csv("train.csv"), hyperparameters=hyperparameters, save_path="run", tracking=None)
"""


def epochs_of(run) -> list[float]:
    file = run / "search" / "trials" / "0000" / "metrics.jsonl"
    return [json.loads(line)["epoch"] for line in file.read_text().splitlines()] if file.exists() else []


@pytest.fixture
def begun(small, tmp_path):
    """(process, its folder) of a running fit that has finished three epochs."""
    small[0].to_csv(tmp_path / "train.csv", index=False)
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(FIT)], cwd=tmp_path, text=True, stdout=-1, stderr=-1) as fit:
        until = time.time() + 60
        while len(epochs_of(tmp_path / "run")) < 3:
            assert fit.poll() is None, fit.communicate()
            assert time.time() < until
            time.sleep(0.02)
        yield fit, tmp_path
        fit.kill()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, -signal.SIGINT)])
def test_one_signal_keeps_the_best_so_far_and_a_folder_that_moved_goes_on(begun, here, number, status):
    fit, folder = begun
    fit.send_signal(number)
    printed, _ = fit.communicate(timeout=60)
    assert fit.returncode == status
    assert "resume=True" in printed
    assert MultiModalPredictor.load(folder / "run").fit_summary()["best_epoch"] >= 1
    if number == signal.SIGTERM:
        goes_on(folder, here)


def goes_on(folder, here):
    """Moves the folder and resumes the fit to its end; the earlier epochs must be kept."""
    before = epochs_of(folder / "run")
    shutil.move(folder / "run", here / "moved")
    predictor = MultiModalPredictor.load(here / "moved", resume=True, verbosity=0)
    predictor.fit(folder / "train.csv", tracking=None)
    after = epochs_of(here / "moved")
    assert after[: len(before)] == before
    assert after[-1] == 30
    assert predictor.path == str(here / "moved")
    assert len(predictor.leaderboard()) == 1
    return after


def test_a_second_ctrl_c_ends_at_once_and_loses_no_epoch(begun):
    fit, folder = begun
    before = epochs_of(folder / "run")
    fit.send_signal(signal.SIGINT)
    fit.send_signal(signal.SIGINT)
    fit.communicate(timeout=60)
    assert fit.returncode != 0
    assert epochs_of(folder / "run")[: len(before)] == before


@pytest.mark.slow  # like SIGTERM above, and like test_kills.py without the move
def test_a_folder_of_a_killed_fit_that_moved_goes_on(begun, here):
    fit, folder = begun
    fit.kill()
    fit.wait()
    assert goes_on(folder, here) == [float(epoch) for epoch in range(1, 31)]


@pytest.mark.parametrize("names", [[], ["lock"], ["lock", ".settings.json.tmp"]])
def test_a_search_killed_before_it_knew_what_it_was_is_begun_anew(small, here, fast, names):
    (here / "run" / "search").mkdir(parents=True)
    for name in names:
        (here / "run" / "search" / name).write_text("{")
    MultiModalPredictor("label", verbosity=0).fit(small[0], hyperparameters=fast | {"optim.max_epochs": 1}, save_path="run", tracking=None)
    assert not (here / "run" / "search" / ".settings.json.tmp").exists()


def test_what_else_lies_there_is_nobodys_to_take(small, here, fast):
    (here / "run" / "search").mkdir(parents=True)
    (here / "run" / "search" / "notes.txt").write_text("mine")
    with pytest.raises(SavePathExists, match="already holds"):
        MultiModalPredictor("label", verbosity=0).fit(small[0], hyperparameters=fast, save_path="run", tracking=None)
