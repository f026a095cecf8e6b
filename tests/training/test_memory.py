import torch

from automm_hpo.config import Config
from automm_hpo.training.memory import known_micro_batch, note_micro_batch

CPU = torch.device("cpu")


def test_what_fits_is_known_to_trials_of_the_same_kind(tmp_path):
    config = Config()
    folder = tmp_path / "cache"
    assert known_micro_batch(folder, config, CPU) == 0
    note_micro_batch(folder, config, CPU, 16)
    assert known_micro_batch(folder, config.with_overrides({"optim.lr": 0.5}), CPU) == 16
    assert known_micro_batch(folder, config.with_overrides({"model.timm_image.image_size": 64}), CPU) == 0
    assert known_micro_batch(folder, config.with_overrides({"env.precision": "bf16-mixed"}), CPU) == 0
