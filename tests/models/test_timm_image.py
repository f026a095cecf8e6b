import time
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from automm_hpo.config import Config, TimmImage
from automm_hpo.data.batch import Batch
from automm_hpo.data.features import Features
from automm_hpo.data.images import ImageSpec
from automm_hpo.errors import InvalidHyperparameter, MissingData, WeightsUnavailable
from automm_hpo.models import MODELS, build_model, check_model, fetch_weights, image_spec, timm_image


def config(**own) -> Config:
    own = {"checkpoint_name": "test_resnet", "pretrained": False, "image_size": 32} | own
    return Config.from_flat({f"model.timm_image.{key}": value for key, value in own.items()})


IMAGE = Features(num_images=1)


def batch_of(images, mask=None) -> Batch:
    mask = torch.ones(images.shape[:2], dtype=torch.bool) if mask is None else mask
    return Batch(images, mask, torch.zeros(len(images), dtype=torch.int64))


@pytest.mark.parametrize("name", MODELS)
def test_a_model_keeps_its_contract(name):
    model = build_model(config(), Features(num_images=2), 3)
    images = torch.randint(0, 256, (4, 2, 3, 32, 32), dtype=torch.uint8)
    mask = torch.tensor([[True, True], [True, False], [False, True], [False, False]])
    assert model.eval()(batch_of(images, mask)).shape == (4, 3)
    # what the mask hides does not matter
    changed = images.clone()
    changed[1, 1] = 0
    changed[2, 0] = 255
    assert torch.equal(model(batch_of(images, mask))[:3], model(batch_of(changed, mask))[:3])


@pytest.mark.parametrize("checkpoint_name", ["test_resnet", "mobilenetv3_small_050", "test_vit", "test_convnext", "test_efficientnet"])
def test_widths_and_fixed_sizes_of_many_families(checkpoint_name):
    own = config(checkpoint_name=checkpoint_name, image_size=64)
    check_model(own)
    assert build_model(own, IMAGE, 5).eval()(batch_of(torch.zeros(2, 1, 3, 64, 64, dtype=torch.uint8))).shape == (2, 5)


def test_the_spec_is_the_models_own():
    assert image_spec(config(image_size=None)) == ImageSpec(160, "bilinear", 0.95)
    assert image_spec(config(checkpoint_name="mobilenetv3_small_050")) == ImageSpec(32, "bicubic", 0.875)


def test_normalisation_is_the_first_operation():
    model = build_model(config(), IMAGE, 3)
    grey = torch.full((1, 1, 3, 32, 32), 255, dtype=torch.uint8)
    expected = model.backbones["timm_image"].backbone.eval()((grey[0].float() / 255 - 0.5) / 0.5)
    assert torch.allclose(model.eval().features(batch_of(grey)), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"checkpoint_name": "mobilenetv3_smal_050"}, "Did you mean mobilenetv3_small_050"),
        ({"checkpoint_name": "test_resnet.no_such_tag"}, "there are: test_resnet.r160_in1k"),
        ({"checkpoint_name": "test_vit", "image_size": 33}, "test_vit does not take 33 pixels"),
        ({"checkpoint_name": "vgg11", "drop_path_rate": 0.1}, "does not take"),
    ],
)
def test_what_cannot_be_built_is_refused(own, message):
    with pytest.raises(InvalidHyperparameter, match=message):
        check_model(config(**own))


def test_weights_out_of_reach_are_refused_in_time_with_the_ways_out(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # wherever this runs, the hub is out of reach
    monkeypatch.setattr(timm_image, "_hub_failed", (-1e9, ConnectionError()))
    started = time.monotonic()
    for name in ("ghostnet_100", "mobilenetv3_large_100"):
        with pytest.raises(WeightsUnavailable, match=f"{name}.*pretrained=False.*checkpoint_path.*local-dir"):
            fetch_weights(config(checkpoint_name=name, pretrained=True), IMAGE)
    assert time.monotonic() - started < 10


@pytest.fixture
def donor():
    torch.manual_seed(7)
    return timm.create_model("test_resnet", num_classes=10)


def same_backbone(model, donor) -> bool:
    own = model.backbones["timm_image"].backbone.state_dict()
    return all(torch.equal(value, own[key]) for key, value in donor.state_dict().items() if key in own)


@pytest.mark.parametrize("form", ["safetensors", "state dict", "wrapped", "data parallel"])
def test_a_local_weights_file_is_loaded(donor, tmp_path, form):
    weights = donor.state_dict()
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pth")
    match form:
        case "safetensors":
            save_file(weights, path)
        case "state dict":
            torch.save(weights, path)
        case "wrapped":
            torch.save({"state_dict": weights, "epoch": 3}, path)
        case "data parallel":
            torch.save({f"module.{key}": value for key, value in weights.items()}, path)
    own = config(checkpoint_path=str(path), pretrained=True)
    check_model(own)
    assert same_backbone(build_model(own, IMAGE, 3), donor)


def test_another_models_weights_are_refused(donor, tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(donor.state_dict(), path)
    with pytest.raises(InvalidHyperparameter, match=r"lacks \d+ of the \d+ tensors"):
        build_model(config(checkpoint_name="test_vit", checkpoint_path=str(path)), IMAGE, 3)


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("planted"),))


def test_a_planted_pickle_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Bomb()}, tmp_path / "w.pth")
    with pytest.raises(InvalidHyperparameter, match="holds no plain weights"):
        build_model(config(checkpoint_path=str(tmp_path / "w.pth")), IMAGE, 3)
    assert not (tmp_path / "planted").exists()


def test_a_missing_weights_file_is_refused():
    with pytest.raises(MissingData, match="no such file"):
        check_model(config(checkpoint_path="nowhere.pth"))


def test_a_local_folder_is_a_model(donor, tmp_path):
    from timm.models import save_for_hf

    save_for_hf(donor, tmp_path, model_args={})
    own = config(checkpoint_name=f"local-dir:{tmp_path}", pretrained=True)
    check_model(own)
    assert image_spec(own).interpolation == "bilinear"
    assert same_backbone(build_model(own, IMAGE, 3), donor)
    with pytest.raises(WeightsUnavailable, match="cannot be read"):
        check_model(config(checkpoint_name="local-dir:/nowhere"))


def test_the_same_weights_come_without_fetching_when_ours_follow():
    build_model(config(pretrained=True), IMAGE, 3, load_weights=False)


def test_defaults_name_a_model_that_exists():
    assert timm.is_model(TimmImage().checkpoint_name)
