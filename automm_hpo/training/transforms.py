"""Cached pixels -> what the model sees, on the device: resizes if a trial's size is smaller than the cache's, crops, flips, recolours."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torchvision.transforms import v2

from ..data.images import ImageSpec

SHIFT = 16  # random_crop may exceed the image by 1/16 of the crop's size; edge pixels repeat there
DRAWS, DRAWS_ON_GPU = 32, 8  # parts of a batch, because torchvision changes all images of a call alike; a GPU waits once for each part
LEAST_AREA = 0.35  # smallest share of the image that random_resized_crop keeps; ImageNet's 0.08 is for millions of images

FLIPS = ("random_horizontal_flip", "random_vertical_flip")
# torchvision's transforms for uint8 images, by name
POLICIES: dict[str, Callable[[], v2.Transform]] = {
    "trivial_augment": v2.TrivialAugmentWide,  # Müller, Hutter 2021, arXiv:2103.10158
    "rand_augment": v2.RandAugment,  # Cubuk et al. 2020, arXiv:1909.13719
    "color_jitter": lambda: v2.ColorJitter(0.3, 0.3, 0.3),
    "affine": lambda: v2.RandomAffine(degrees=15, translate=(0.1, 0.1), scale=(0.9, 1.1)),
}


def eval_view(images: torch.Tensor, spec: ImageSpec) -> torch.Tensor:
    """(B, I, 3, S, S) uint8 -> (B, I, 3, size, size), the centre. Without images (I = 0), returns them unchanged."""
    if not images.shape[1]:
        return images
    images = _resized(images, spec)
    start = (images.shape[-1] - spec.size) // 2
    return images[..., start : start + spec.size, start : start + spec.size]


def train_view(images: torch.Tensor, spec: ImageSpec, transforms: tuple[str, ...], rng: torch.Generator) -> torch.Tensor:
    """(B, I, 3, S, S) uint8 -> (B, I, 3, size, size).

    Args:
        transforms: names; ``random_resized_crop`` replaces ``random_crop``.
        rng: draws each image's own window and mirror. torchvision's transforms draw from torch's default generator, once for each of the
            batch's 32 parts, 8 on a GPU.
    """
    if not images.shape[1]:
        return images
    resizing, flips = "random_resized_crop" in transforms, tuple(name for name in transforms if name in FLIPS)
    parts = [name for name in transforms if name in POLICIES]
    if resizing:
        crop = v2.RandomResizedCrop(spec.size, scale=(LEAST_AREA, 1.0), antialias=True)
        view = _in_parts(crop, images)
        view = _window(view, ImageSpec(spec.size), flips, rng) if flips else view
    elif flips or "random_crop" in transforms:
        view = _window(_resized(images, spec), spec, transforms, rng)
    else:
        view = eval_view(images, spec)
    for name in parts:
        view = _in_parts(POLICIES[name](), view)
    return view


def _in_parts(transform: v2.Transform, images: torch.Tensor) -> torch.Tensor:
    """Applies a torchvision transform, drawn anew for each part of a batch (whose rows are shuffled already)."""
    flat = images.flatten(0, 1)
    draws = DRAWS if flat.device.type == "cpu" else DRAWS_ON_GPU
    changed = torch.cat([transform(part) for part in flat.tensor_split(min(draws, len(flat)))])
    return changed.unflatten(0, images.shape[:2])


def _window(images: torch.Tensor, spec: ImageSpec, transforms: tuple[str, ...], rng: torch.Generator) -> torch.Tensor:
    """Cuts each image's own window, mirrored or not."""
    num_images, side, size = images.shape[0] * images.shape[1], images.shape[-1], spec.size
    offsets = torch.arange(size, device=images.device)
    corner = torch.full((2, num_images, 1), (side - size) // 2, device=images.device)
    if "random_crop" in transforms:
        corner = torch.randint(-(size // SHIFT), side - size + size // SHIFT + 1, (2, num_images, 1), generator=rng, device=images.device)
    rows, columns = (corner + offsets).clamp_(0, side - 1)  # (B*I, size) each
    if "random_horizontal_flip" in transforms:
        mirrored = torch.rand(num_images, 1, generator=rng, device=images.device) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    if "random_vertical_flip" in transforms:
        mirrored = torch.rand(num_images, 1, generator=rng, device=images.device) < 0.5
        rows = torch.where(mirrored, rows.flip(1), rows)
    # one flat index moves a pixel's three bytes together: three times faster than indexing by image, row and column
    first = torch.arange(num_images, device=images.device)[:, None] * side
    places = (first + rows)[:, :, None] * side + columns[:, None, :]  # (B*I, size, size)
    pixels = images.flatten(0, 1).permute(0, 2, 3, 1).reshape(-1, 3)
    return pixels.index_select(0, places.flatten()).view(num_images, size, size, 3).permute(0, 3, 1, 2).unflatten(0, images.shape[:2])


def _resized(images: torch.Tensor, spec: ImageSpec) -> torch.Tensor:
    """The images at the side that this spec crops from. A search that tunes the size decodes only once, at the largest side."""
    if images.shape[-1] == spec.side:
        return images
    flat = images.flatten(0, 1)
    mode = "bicubic" if spec.interpolation in ("bicubic", "lanczos") else "bilinear"
    if flat.device.type == "cpu":  # torch resizes uint8 here, on a GPU only floats
        resized = F.interpolate(flat, size=(spec.side, spec.side), mode=mode, antialias=True)
    else:
        resized = F.interpolate(flat.float(), size=(spec.side, spec.side), mode=mode, antialias=True).round_().clamp_(0, 255).to(torch.uint8)
    return resized.unflatten(0, images.shape[:2])
