"""A hand-written torch loop for one task, without checks, logging, resumability or options: the floor that speed is measured against."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from timm.optim import param_groups_weight_decay


@dataclass(frozen=True)
class Recipe:
    """Settings of one training; ``hyperparameters`` has the same values under the names that ``fit`` uses."""

    model: str
    size: int
    batch: int = 32
    epochs: int = 2
    lr: float = 3e-3
    weight_decay: float = 1e-3
    clip: float = 1.0
    warmup: float = 0.1

    @property
    def hyperparameters(self) -> dict[str, object]:
        return {
            "model.timm_image.checkpoint_name": self.model,
            "model.timm_image.pretrained": False,
            "model.timm_image.image_size": self.size,
            "model.timm_image.train_transforms": ["random_crop", "random_horizontal_flip"],
            "env.batch_size": self.batch,
            "optim.max_epochs": self.epochs,
            "optim.lr": self.lr,
            "optim.weight_decay": self.weight_decay,
            "optim.gradient_clip_val": self.clip,
            "optim.warmup_steps": self.warmup,
        }

    @property
    def side(self) -> int:
        """Side of the decoded images in pixels; validation uses their centre."""
        return max(self.size, math.floor(self.size / timm.get_pretrained_cfg(self.model).crop_pct))


def decode(paths: Sequence[str], recipe: Recipe) -> torch.Tensor:
    """Decodes and resizes images to (N, S, S, 3) uint8."""
    resample = Image.Resampling[timm.get_pretrained_cfg(recipe.model).interpolation.upper()]
    return torch.from_numpy(np.stack([np.asarray(Image.open(path).convert("RGB").resize((recipe.side, recipe.side), resample)) for path in paths]))


def bare_training(
    images: torch.Tensor,
    target: torch.Tensor,
    valid_images: torch.Tensor,
    valid_target: torch.Tensor,
    recipe: Recipe,
    folder: Path | None,
    lr: float | None = None,
) -> float:
    """Trains on the device of the tensors, in bfloat16 if it is a GPU.

    Args:
        images, target: (N, S, S, 3) uint8, (N,) int64; the same for validation.
        folder: where weights and optimizer are saved after every epoch, keeping the last two; None: nothing is written.
        lr: replaces the recipe's learning rate.

    Returns:
        The last validation accuracy.
    """
    device, peak = images.device, lr or recipe.lr
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = device.type == "cuda"
    model = timm.create_model(recipe.model, num_classes=int(target.max()) + 1).to(device, memory_format=torch.channels_last)
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(param_groups_weight_decay(model, recipe.weight_decay), lr=peak, fused=True)
    cfg = timm.get_pretrained_cfg(recipe.model)
    mean, std = (255 * torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (cfg.mean, cfg.std))
    rng = torch.Generator(device).manual_seed(0)
    start, size, batch = (valid_images.shape[1] - recipe.size) // 2, recipe.size, recipe.batch
    valid_images = valid_images[:, start : start + size, start : start + size].permute(0, 3, 1, 2)
    steps_per_epoch = len(images) // batch
    total_steps, step = recipe.epochs * steps_per_epoch, 0
    mixed = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
    for epoch in range(recipe.epochs):
        model.train()
        order = torch.randperm(len(images), generator=rng, device=device)
        train_loss = torch.zeros((), device=device)
        for rows in order[: steps_per_epoch * batch].split(batch):
            view = crop_and_mirror(images, rows, size, rng).float().sub_(mean).div_(std)
            with mixed:
                loss = F.cross_entropy(model(view), target[rows])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, recipe.clip)
            for group in optimizer.param_groups:
                group["lr"] = peak * schedule(step, total_steps, recipe.warmup)
            optimizer.step()
            optimizer.zero_grad()
            train_loss += loss.detach()
            step += 1
        model.eval()
        with torch.inference_mode(), mixed:
            logits = torch.cat([model(part.float().sub_(mean).div_(std)) for part in valid_images.split(4 * batch)])
            accuracy = (logits.argmax(1) == valid_target).float().mean().item()
            valid_loss = F.cross_entropy(logits, valid_target).item()
        if folder is not None:
            note = {"accuracy": accuracy, "train_loss": train_loss.item() / steps_per_epoch, "valid_loss": valid_loss}
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step, **note}, folder / f"{epoch}.pt")
            (folder / f"{epoch - 2}.pt").unlink(missing_ok=True)
    return accuracy


def crop_and_mirror(images: torch.Tensor, rows: torch.Tensor, size: int, rng: torch.Generator) -> torch.Tensor:
    """Crops and mirrors rows at random, repeating edge pixels: (N, S, S, 3) uint8, (B,) -> (B, 3, size, size).

    Faster than unfold, slices and one gather over three axes.
    """
    side, device, shift = images.shape[1], images.device, size // 16
    corner = torch.randint(-shift, side - size + shift + 1, (2, len(rows), 1), generator=rng, device=device)
    y, x = (corner + torch.arange(size, device=device)).clamp_(0, side - 1)  # (B, size) each
    x = torch.where(torch.rand(len(rows), 1, generator=rng, device=device) < 0.5, x.flip(1), x)
    pixels = (rows[:, None] * side + y)[:, :, None] * side + x[:, None, :]  # (B, size, size)
    return images.view(-1, 3).index_select(0, pixels.flatten()).view(len(rows), size, size, 3).permute(0, 3, 1, 2)


def schedule(step: int, total_steps: int, warmup_share: float) -> float:
    warmup = round(warmup_share * total_steps)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total_steps - warmup)))
