import torch

from automm_hpo.config import Config
from automm_hpo.training import memory
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


def test_two_processes_may_note_it_at_once(tmp_path, monkeypatch):
    """Each writes to a file of its own until that is complete."""
    written, write = [], memory.write_json

    def write_as_two(path, size, sync):
        written.append(path)
        if len(written) == 1:  # another process writes in between
            monkeypatch.setattr(memory.os, "getpid", lambda: 1)
            note_micro_batch(tmp_path, Config(), CPU, 8)
        write(path, size, sync)

    monkeypatch.setattr(memory, "write_json", write_as_two)
    note_micro_batch(tmp_path, Config(), CPU, 16)
    assert len(set(written)) == 2
    assert known_micro_batch(tmp_path, Config(), CPU) == 16
    assert len(list(tmp_path.iterdir())) == 1
