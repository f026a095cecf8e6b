"""Conditional, exhaustive and computed spaces in one real search."""

import pytest
from ray import tune

from automm_hpo import MultiModalPredictor


@pytest.mark.usefixtures("ray_session")
def test_every_kind_of_space_in_one_search(small, here, fast):
    space = {
        "env.batch_size": tune.grid_search([16, 32]),
        "optim": tune.choice(
            [
                {"optim_type": "sgd", "lr": tune.loguniform(1e-3, 1e-1), "momentum": tune.uniform(0.8, 0.99)},
                {"optim_type": "adamw", "lr": tune.loguniform(1e-4, 1e-2)},
            ]
        ),
        "optim.weight_decay": tune.sample_from(lambda spec: spec.config.optim.lr / 10),
    }
    fixed = {key: value for key, value in fast.items() if key not in ("optim.lr", "env.batch_size")} | {"optim.max_epochs": 1}
    settings = {"searcher": "random", "scheduler": "FIFO", "num_trials": 4, "num_to_keep": 1, "default_first": False}
    predictor = MultiModalPredictor("label", verbosity=0).fit(
        small[0].head(80), hyperparameters=fixed | space, save_path=here / "run", hyperparameter_tune_kwargs=settings, tracking=None, seed=1
    )
    table = predictor.leaderboard().set_index("trial")
    assert set(table["status"]) == {"COMPLETED"}
    assert sorted(table["env.batch_size"]) == [16, 16, 32, 32]
    assert set(table["optim.optim_type"]) == {"sgd", "adamw"}
    assert (table["optim.momentum"].notna() == (table["optim.optim_type"] == "sgd")).all()
    assert table["optim.weight_decay"].to_numpy() == pytest.approx(table["optim.lr"].to_numpy() / 10)
