"""How many rows a device holds at once: found by the first trial that runs out of memory, known to the others of the search."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import torch

from ..config import Config
from ..files import digest, read_json, write_json


def known_micro_batch(folder: Path, config: Config, device: torch.device) -> int:
    """What fitted for trials of this kind; 0: nothing is known against the whole batch."""
    file = _file(folder, config, device)
    return read_json(file) if file.exists() else 0


def note_micro_batch(folder: Path, config: Config, device: torch.device, size: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    file = _file(folder, config, device)
    own = file.with_suffix(f".{socket.gethostname()}-{os.getpid()}")  # trials that began together run out of memory together
    write_json(own, size, sync=False)
    os.replace(own, file)


def _file(folder: Path, config: Config, device: torch.device) -> Path:
    """Named by what memory depends on."""
    decisive = ("model.", "env.batch_size", "env.per_gpu_batch_size", "env.precision", "optim.optim_type", "optim.peft", "optim.ema_decay")
    known = {key: value for key, value in config.flat().items() if key.startswith(decisive)}
    known["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return folder / f"micro-batch-{digest(known)}.json"
