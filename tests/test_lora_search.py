"""LoRA as a tuned hyperparameter: one trial with it, one without, and its weights on disk."""

import numpy as np
import pytest
import timm
import torch

from automm_hpo import MultiModalPredictor, space


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "published.pth")
    return str(tmp_path / "published.pth")


@pytest.mark.slow
def test_trials_with_and_without_lora_are_searched_saved_and_loaded(weights, small, here, ray_session):
    train, test = small
    predictor = MultiModalPredictor("label", verbosity=0).fit(
        train,
        tracking=None,
        save_path="run",
        hyperparameters={
            "model.timm_image.checkpoint_name": "test_vit",
            "model.timm_image.checkpoint_path": weights,
            "model.timm_image.image_size": 32,
            "optim.max_epochs": 1,
            "optim.peft": space.grid_search([None, "lora"]),
        },
        hyperparameter_tune_kwargs={"searcher": "grid", "scheduler": "FIFO", "num_to_keep": 1, "keep_trials": 2},
    )
    board = predictor.leaderboard()
    assert board["status"].eq("COMPLETED").all()
    assert len(board) == 2
    lora = predictor.load_trial(int(board.loc[board["optim.peft"] == "lora", "trial"].iloc[0]))
    lora.save("adapted")
    loaded = MultiModalPredictor.load("adapted")
    assert any("lora_A" in name for name in loaded._artifact.members[0].model.state_dict())
    assert np.array_equal(loaded.predict_proba(test, as_pandas=False), lora.predict_proba(test, as_pandas=False))
