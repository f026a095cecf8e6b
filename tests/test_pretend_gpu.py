"""Fits on a pretended GPU, for machines without one; see ``pretend_gpu.py``."""

import warnings

import numpy as np
import pytest
import torch
from pretend_gpu import GPU, pretend_gpu

from automm_hpo import MultiModalPredictor
from automm_hpo.data.batch import TensorCache


@pytest.fixture
def gpu():
    with pretend_gpu() as gpu:
        yield gpu


def test_it_refuses_what_a_gpu_refuses(gpu):
    there, here = torch.ones(3, device="cuda"), torch.ones(3)
    assert (there.device, (there * 2).device, there.sum().device, here.to(there.device).device) == (GPU,) * 4
    for mixed in (lambda: there + here, lambda: torch.cat([here, there]), lambda: here[there.long()], lambda: torch.nn.Linear(3, 1)(there)):
        with pytest.raises(RuntimeError, match="device"):
            mixed()
    with pytest.raises(TypeError, match="numpy"):
        there.numpy()
    assert gpu.waits == ["to"]
    assert (float(there.sum()), there.cpu().numpy().tolist(), there[here.long()].tolist()) == (3.0, [1.0] * 3, [1.0] * 3)
    assert gpu.waits == ["to", "__float__", "cpu", "tolist"]


def test_tokens_are_cut_without_asking_the_gpu(gpu):
    counts, tokens = torch.tensor([2, 5, 3]), torch.arange(24).view(3, 8)
    rows = TensorCache(torch.zeros(3, 0, 1, 1, 3), torch.zeros(3, 0), torch.zeros(3), tokens={"words": tokens}, token_counts={"words": counts}).to(GPU)
    gpu.waits.clear()
    batch = rows.batch(torch.tensor([2, 0]))
    assert batch.tokens["words"].shape == (2, 3)
    assert batch.tokens["words"].device == batch.token_counts["words"].device == GPU
    assert not gpu.waits


def test_a_fit_of_every_kind_of_column(small, here, fast, reader_folder, capsys):
    train, rng = small[0].head(100).copy(), np.random.default_rng(0)
    train["number"], train["category"] = rng.normal(size=len(train)), rng.choice(list("abc"), len(train))
    train["words"] = [f"this is a very {label} red {row % 7}" for row, label in enumerate(train["label"])]
    hyperparameters = fast | {"model.hf_text.checkpoint_name": reader_folder, "optim.ema_decay": 0.9, "optim.top_k_average_method": "greedy_soup"}
    with pretend_gpu(num_gpus=2), warnings.catch_warnings():
        warnings.simplefilter("error")
        predictor = MultiModalPredictor("label")
        predictor.fit(train, hyperparameters=hyperparameters, column_types={"words": "text"}, tracking=None, save_path=here / "run", refit=True)
        assert "| cuda" in capsys.readouterr().out
        probabilities = predictor.predict_proba(train)
        assert predictor.evaluate(train)["accuracy"] > 0.5
        assert np.isfinite(predictor.extract_embedding(train)).all()
    loaded = MultiModalPredictor.load(here / "run", verbosity=0)  # without the GPU
    assert np.allclose(loaded.predict_proba(train), probabilities, atol=1e-4)


@pytest.mark.slow
def test_a_plan_and_a_time_limit_measure_on_the_gpu(small, here, fast, gpu):
    del fast["model.timm_image.image_size"]
    predictor = MultiModalPredictor("label", verbosity=0)
    assert predictor.plan(small[0], hyperparameters=fast).seconds > 0
    predictor.fit(small[0], hyperparameters=fast, tracking=None, time_limit=60)
    assert len(predictor.predict(small[1])) == 100


def test_rows_stay_where_they_are_if_another_trial_took_the_memory(small, here, fast, monkeypatch):
    def full(self, device):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(TensorCache, "to", full)
    with pretend_gpu():
        predictor = MultiModalPredictor("label", verbosity=0).fit(small[0], hyperparameters=fast, tracking=None, save_path=here / "run")
    assert len(predictor.search.curves()) == 2
