import pytest
import torch

from automm_hpo.data.images import ImageSpec
from automm_hpo.training.transforms import eval_view, train_view

SPEC = ImageSpec(16, crop_pct=0.8)  # side 20


def ramp(num_images: int = 8, side: int = 20) -> torch.Tensor:
    """(B, 1, 3, S, S): each pixel holds its row index (red) and its column index (green)."""
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return torch.stack([rows, columns, rows]).to(torch.uint8).expand(num_images, 1, 3, side, side)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_eval_takes_the_centre():
    assert torch.equal(eval_view(ramp(), SPEC), ramp()[..., 2:18, 2:18])


def test_no_transforms_train_on_what_is_evaluated():
    assert torch.equal(train_view(ramp(), SPEC, (), rng()), eval_view(ramp(), SPEC))


def test_random_crops_differ_between_images_and_keep_neighbours_together():
    view = train_view(ramp(64), SPEC, ("random_crop",), rng())
    assert view.shape == (64, 1, 3, 16, 16)
    corners = {tuple(image[0, :2, 0, 0].tolist()) for image in view}
    assert len(corners) > 10
    steps = view[:, 0, 0, 1:, 0].int() - view[:, 0, 0, :-1, 0].int()
    assert set(steps.unique().tolist()) <= {0, 1}  # 0 where the edge is repeated


def test_half_of_the_images_are_mirrored():
    view = train_view(ramp(1000), SPEC, ("random_horizontal_flip",), rng())
    plain = eval_view(ramp(1000), SPEC)
    mirrored = [torch.equal(image, other.flip(-1)) for image, other in zip(view, plain, strict=True)]
    same = [torch.equal(image, other) for image, other in zip(view, plain, strict=True)]
    assert all(a != b for a, b in zip(mirrored, same, strict=True))
    assert 400 < sum(mirrored) < 600


def test_the_generator_decides():
    transforms = ("random_crop", "random_horizontal_flip")
    first, again, other = (train_view(ramp(), SPEC, transforms, rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_smaller_trial_resizes_the_cache(interpolation):
    spec = ImageSpec(8, interpolation, 0.8)  # side 10, out of 20
    view = eval_view(ramp(), spec)
    assert view.shape == (8, 1, 3, 8, 8)
    assert view.dtype == torch.uint8
    expected = 2 * torch.arange(1, 9) + 0.5  # a pixel of the small image lies between two of the large one
    assert (view[0, 0, 0, :, 0].float() - expected).abs().max() <= 1


@pytest.mark.parametrize("name", ["random_resized_crop", "trivial_augment", "rand_augment", "color_jitter"])
def test_torchvisions_transforms_act_differently_within_a_batch_and_repeat(name):
    images = torch.randint(0, 256, (64, 1, 3, 20, 20), dtype=torch.uint8, generator=rng()).contiguous(memory_format=torch.preserve_format)

    def view(seed):
        torch.manual_seed(seed)
        return train_view(images, SPEC, (name,), rng(seed))

    first = view(1)
    assert first.shape == (64, 1, 3, 16, 16)
    assert first.dtype == torch.uint8
    assert torch.equal(first, view(1))
    assert not torch.equal(first, view(2))
    same = torch.randint(0, 256, (1, 1, 3, 20, 20), dtype=torch.uint8, generator=rng()).expand(64, -1, -1, -1, -1)
    torch.manual_seed(0)
    different = {tuple(image.flatten().tolist()) for image in train_view(same, SPEC, (name,), rng())}
    assert len(different) > 8


def test_a_resized_crop_is_mirrored_too():
    torch.manual_seed(0)
    view = train_view(ramp(200), SPEC, ("random_resized_crop", "random_horizontal_flip"), rng())
    rising = (view[:, 0, 1, 8, -1].int() > view[:, 0, 1, 8, 0].int()).sum()
    assert 70 < rising < 130


def test_half_of_the_images_are_turned_upside_down():
    view, plain = train_view(ramp(1000), SPEC, ("random_vertical_flip",), rng()), eval_view(ramp(1000), SPEC)
    turned = [torch.equal(image, other.flip(-2)) for image, other in zip(view, plain, strict=True)]
    assert all(turn or torch.equal(image, other) for turn, image, other in zip(turned, view, plain, strict=True))
    assert 400 < sum(turned) < 600


def test_a_colour_policy_alone_moves_no_window():
    torch.manual_seed(0)
    view = train_view(ramp(), SPEC, ("resize_shorter_side", "center_crop"), rng())
    assert torch.equal(view, eval_view(ramp(), SPEC))
    assert train_view(ramp(), SPEC, ("center_crop", "affine"), rng()).shape == (8, 1, 3, 16, 16)
