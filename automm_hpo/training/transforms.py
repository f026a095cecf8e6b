"""From cached pixels to what the model sees, on the device: resize where a trial is smaller than the cache, crop, flip."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..data.images import ImageSpec

SHIFT = 16  # random_crop may leave the picture by 1/16 of its size; the edge pixels repeat there


def eval_view(images: torch.Tensor, spec: ImageSpec) -> torch.Tensor:
    """(B, I, 3, S, S) uint8 -> (B, I, 3, size, size), the centre; without images (I = 0) as they are."""
    if not images.shape[1]:
        return images
    images = _resized(images, spec)
    start = (images.shape[-1] - spec.size) // 2
    return images[..., start : start + spec.size, start : start + spec.size]


def train_view(images: torch.Tensor, spec: ImageSpec, transforms: tuple[str, ...], rng: torch.Generator) -> torch.Tensor:
    """(B, I, 3, S, S) uint8 -> (B, I, 3, size, size), each image with a window and a mirror of its own."""
    if not transforms or not images.shape[1]:
        return eval_view(images, spec)
    images = _resized(images, spec)
    num_images, side, size = images.shape[0] * images.shape[1], images.shape[-1], spec.size
    offsets = torch.arange(size, device=images.device)
    corner = torch.full((2, num_images, 1), (side - size) // 2, device=images.device)
    if "random_crop" in transforms:
        corner = torch.randint(-(size // SHIFT), side - size + size // SHIFT + 1, (2, num_images, 1), generator=rng, device=images.device)
    rows, columns = (corner + offsets).clamp_(0, side - 1)  # (B*I, size) each
    if "random_horizontal_flip" in transforms:
        mirrored = torch.rand(num_images, 1, generator=rng, device=images.device) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    # one flat index moves a pixel's three bytes together: three times faster than indexing by image, row and column
    first = torch.arange(num_images, device=images.device)[:, None] * side
    places = (first + rows)[:, :, None] * side + columns[:, None, :]  # (B*I, size, size)
    pixels = images.flatten(0, 1).permute(0, 2, 3, 1).reshape(-1, 3)
    return pixels.index_select(0, places.flatten()).view(num_images, size, size, 3).permute(0, 3, 1, 2).unflatten(0, images.shape[:2])


def _resized(images: torch.Tensor, spec: ImageSpec) -> torch.Tensor:
    """The picture at the side this spec crops from; a search that tunes the size decodes once, at the largest."""
    if images.shape[-1] == spec.side:
        return images
    flat = images.flatten(0, 1)
    mode = "bicubic" if spec.interpolation in ("bicubic", "lanczos") else "bilinear"
    if flat.device.type == "cpu":  # torch resizes bytes natively here, on a GPU only floats
        resized = F.interpolate(flat, size=(spec.side, spec.side), mode=mode, antialias=True)
    else:
        resized = F.interpolate(flat.float(), size=(spec.side, spec.side), mode=mode, antialias=True).round_().clamp_(0, 255).to(torch.uint8)
    return resized.unflatten(0, images.shape[:2])
