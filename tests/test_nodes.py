"""A cluster started by someone else: two nodes on one machine, the second with its own cache folder and killed during the search."""

import os
import subprocess
import sys
import textwrap
import time

import pytest

from automm_hpo.errors import InvalidTuneSettings
from automm_hpo.hpo.cluster import check_nodes

SEARCH = """
    import ray
    from ray import tune
    from automm_hpo import MultiModalPredictor
    from automm_hpo.datasets import fashion_mnist

    train = fashion_mnist("fashion")[0].head(200)
    hyperparameters = {
        "model.timm_image.checkpoint_name": "test_resnet",
        "model.timm_image.pretrained": False,
        "model.timm_image.image_size": 32,
        "env.batch_size": 16,
        "env.num_gpus": 0,
        "optim.lr": tune.loguniform(1e-4, 1e-2),
        "optim.max_epochs": 12,
        "optim.patience": 12,
    }
    kwargs = {"searcher": "random", "scheduler": "FIFO", "num_trials": 6, "resources_per_trial": {"cpu": 1}}
    predictor = MultiModalPredictor("label", verbosity=0).fit(
        train, hyperparameters=hyperparameters, hyperparameter_tune_kwargs=kwargs, save_path="search", tracking=None
    )
    assert not ray.is_initialized()  # connected to by us, and left by us
    board = predictor.leaderboard()
    print(board[["trial", "status", "epochs"]].to_string())
    assert (board["status"] == "COMPLETED").all() and len(board) == 6, board
    assert (board["epochs"] == 12).all()
"""


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_two_nodes_share_a_search_and_killing_one_loses_no_trial(tmp_path):
    from ray.cluster_utils import Cluster

    from automm_hpo.hpo.cluster import RAY_ENVIRONMENT

    with pytest.MonkeyPatch.context() as patch:
        for name, value in RAY_ENVIRONMENT.items():
            patch.setenv(name, value)
        patch.setenv("AUTOMM_HPO_CACHE_DIR", str(tmp_path / "first cache"))
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100_000_000, "include_dashboard": False})
        try:
            own = tmp_path / "own cache"
            patch.setenv("AUTOMM_HPO_CACHE_DIR", str(own))  # for the second node's processes only
            second = cluster.add_node(num_cpus=1, object_store_memory=100_000_000)
            patch.setenv("AUTOMM_HPO_CACHE_DIR", str(tmp_path / "first cache"))
            environment = {**os.environ, "RAY_ADDRESS": cluster.address}
            command = [sys.executable, "-c", textwrap.dedent(SEARCH)]
            with subprocess.Popen(command, cwd=tmp_path, env=environment, text=True, stdout=-1, stderr=-1) as search:
                until = time.time() + 120
                while not list(own.glob("*.pixels")):  # until a trial has started on the second node
                    assert search.poll() is None, search.communicate()
                    assert time.time() < until
                    time.sleep(0.1)
                time.sleep(1)
                cluster.remove_node(second, allow_graceful=False)
                printed, errors = search.communicate(timeout=240)
            assert search.returncode == 0, errors[-3000:]
            assert printed.count("COMPLETED") == 6
            assert cluster.head_node.remaining_processes_alive()  # the search must not shut the cluster down
        finally:
            cluster.shutdown()


def test_a_trial_that_fits_on_no_single_machine_is_refused(tmp_path, monkeypatch):
    import ray

    nodes = [{"NodeID": name, "NodeName": name, "Alive": True, "Resources": {"CPU": 4.0}} for name in "ab"]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    with pytest.raises(InvalidTuneSettings, match="a trial needs 6 cpu, which no machine of the cluster has"):
        check_nodes(tmp_path, {"cpu": 6.0, "gpu": 0.0})
