import numpy as np
import pytest
import torch

from automm_hpo.config import Config
from automm_hpo.data.batch import TensorCache
from automm_hpo.data.features import Features
from automm_hpo.metrics import find_metric
from automm_hpo.models import image_spec
from automm_hpo.problem import Problem
from automm_hpo.training.building import ModelBuilder
from automm_hpo.training.loop import train_epochs
from automm_hpo.training.state import TrialData

PROBLEM = Problem("label", "multiclass", (0, 1, 2), "int64")


def random_split(num_rows: int, side: int, seed: int) -> TensorCache:
    """Images whose brightness depends on their class, so that there is something to learn."""
    rng = np.random.default_rng(seed)
    target = rng.integers(0, 3, num_rows)
    images = rng.integers(0, 100, (num_rows, 1, side, side, 3)) + 70 * target[:, None, None, None, None]
    return TensorCache(torch.from_numpy(images.astype(np.uint8)), torch.ones(num_rows, 1, dtype=torch.bool), torch.from_numpy(target))


class Trial:
    """A tiny training: 40 rows, 4 steps per epoch."""

    def __init__(self, seed: int = 0, **overrides) -> None:
        base = {
            "model.timm_image.checkpoint_name": "test_resnet",
            "model.timm_image.pretrained": False,
            "model.timm_image.image_size": 32,
            "env.batch_size": 10,
            "optim.lr": 3e-3,
            "optim.max_epochs": 4,
        }
        self.seed = seed
        self.config = Config.from_flat(base | {key.replace("__", "."): value for key, value in overrides.items()})
        spec = image_spec(self.config)
        valid = random_split(20, spec.side, 1)
        self.data = TrialData(random_split(40, spec.side, 0), valid, PROBLEM, find_metric("accuracy"), valid.target.numpy())

    def state(self):
        return ModelBuilder(Features(num_images=1), PROBLEM.num_outputs).state(self.config, self.seed, torch.device("cpu"))

    def epochs(self, state, should_stop=lambda epoch, ahead: None):
        return train_epochs(state, self.data, self.config, self.seed, should_stop)


@pytest.fixture
def trial():
    return Trial
