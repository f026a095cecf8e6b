"""How many rows a device holds at once: found by the first trial that runs out of memory, and noted for the search's other trials."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import torch

from ..config import Config
from ..files import digest, read_json, write_json


def known_micro_batch(folder: Path, config: Config, device: torch.device) -> int:
    """The number of rows that fitted for trials of this kind; 0: none of them ran out of memory yet."""
    file = _file(folder, config, device)
    return read_json(file) if file.exists() else 0


def note_micro_batch(folder: Path, config: Config, device: torch.device, size: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    file = _file(folder, config, device)
    own = file.with_suffix(f".{socket.gethostname()}-{os.getpid()}")  # a file per process, because trials that start together run out of memory together
    write_json(own, size, sync=False)
    os.replace(own, file)


def _file(folder: Path, config: Config, device: torch.device) -> Path:
    """The file for trials of this kind, named by a digest of what memory depends on."""
    decisive = ("model.", "env.batch_size", "env.per_gpu_batch_size", "env.precision", "optim.optim_type", "optim.peft", "optim.ema_decay")
    known = {key: value for key, value in config.flat().items() if key.startswith(decisive)}
    known["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return folder / f"micro-batch-{digest(known)}.json"
