import json
import time
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from automm_hpo import hub
from automm_hpo.config import Config, TimmImage
from automm_hpo.data.batch import Batch
from automm_hpo.data.features import Features
from automm_hpo.data.images import ImageSpec
from automm_hpo.errors import InvalidHyperparameter, MissingData, WeightsUnavailable
from automm_hpo.models import build_model, check_model, fetch_weights, image_spec, timm_image

IMAGES = Features(num_images=1)
GEMMA = "gemma4_vit_167m_enc"  # since timm 1.0.31


def config(**own) -> Config:
    own = {"checkpoint_name": "test_resnet", "pretrained": False, "image_size": 32} | own
    return Config.from_flat({f"model.timm_image.{key}": value for key, value in own.items()})


def batch_of(images, mask=None) -> Batch:
    mask = torch.ones(images.shape[:2], dtype=torch.bool) if mask is None else mask
    return Batch(images, mask, torch.zeros(len(images), dtype=torch.int64))


def test_what_the_mask_hides_does_not_matter():
    model = build_model(config(), Features(num_images=2), 3).eval()
    images = torch.randint(0, 256, (4, 2, 3, 32, 32), dtype=torch.uint8)
    mask = torch.tensor([[True, True], [True, False], [False, True], [False, False]])
    changed = images.clone()
    changed[1, 1] = 0
    changed[2, 0] = 255
    changed[3] = 7
    assert torch.equal(model(batch_of(images, mask)), model(batch_of(changed, mask)))


@pytest.mark.parametrize("checkpoint_name", ["test_resnet", "mobilenetv3_small_050", "test_vit", "test_convnext", "test_efficientnet"])
def test_widths_and_fixed_sizes_of_many_families(checkpoint_name):
    own = config(checkpoint_name=checkpoint_name, image_size=64)
    check_model(own)
    assert build_model(own, IMAGES, 5).eval()(batch_of(torch.zeros(2, 1, 3, 64, 64, dtype=torch.uint8))).shape == (2, 5)


def test_the_spec_is_the_models_own():
    assert image_spec(config(image_size=None)) == ImageSpec(160, "bilinear", 0.95)
    assert image_spec(config(checkpoint_name="mobilenetv3_small_050")) == ImageSpec(32, "bicubic", 0.875)


def test_normalisation_is_the_first_operation():
    model = build_model(config(), IMAGES, 3)
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
        ({"checkpoint_name": "mobilenetv5_300m_enc", "image_size": None}, "not a vector per image"),
        pytest.param(
            {"checkpoint_name": GEMMA, "image_size": None},
            "not a vector per image",
            marks=pytest.mark.skipif(not timm.is_model(GEMMA), reason="a later timm's"),
        ),
    ],
)
def test_what_cannot_be_built_is_refused(own, message):
    with pytest.raises(InvalidHyperparameter, match=message):
        check_model(config(**own))


def test_weights_out_of_reach_are_refused_in_time_with_the_ways_out(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # makes the hub unreachable on any machine
    monkeypatch.setattr(hub, "_failed", (-1e9, ConnectionError()))
    started = time.monotonic()
    for name in ("ghostnet_100", "mobilenetv3_large_100"):
        with pytest.raises(WeightsUnavailable, match=f"{name}.*pretrained=False.*checkpoint_path.*local-dir"):
            fetch_weights(config(checkpoint_name=name, pretrained=True), IMAGES)
    assert time.monotonic() - started < 10


def test_weights_at_hand_are_those_of_the_revision_that_is_asked_for(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    asked = []
    monkeypatch.setattr(hub, "fetch", lambda repo, revision, *others: asked.append(revision))
    snapshot = tmp_path / "models--owner--name" / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").touch()
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "v2").write_text(snapshot.name)
    for revision in ("@v2", "@v3", ""):
        timm_image._fetch_weights(f"hf-hub:owner/name{revision}")
    assert asked == ["v3", None]


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
    assert same_backbone(build_model(own, IMAGES, 3), donor)


def test_a_weights_file_may_be_in_the_home_folder(donor, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save_file(donor.state_dict(), tmp_path / "w.safetensors")
    own = config(checkpoint_path="~/w.safetensors")
    check_model(own)
    fetch_weights(own, IMAGES)
    assert same_backbone(build_model(own, IMAGES, 3), donor)


def test_another_models_weights_are_refused(donor, tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(donor.state_dict(), path)
    own = config(checkpoint_name="test_vit", checkpoint_path=str(path))
    for act in (lambda: fetch_weights(own, IMAGES), lambda: build_model(own, IMAGES, 3)):
        with pytest.raises(InvalidHyperparameter, match=r"checkpoint_path: .*lacks 78 of the 78 tensors .*attn.proj.bias, .*, \.\.\."):
            act()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.zeros(3), "holds no weights by name, but a Tensor"),
        ([1, 2], "but a list"),
        ({"epoch": 3, 5: 1}, "lacks 75 of the 90"),
        ({"model": torch.zeros(2)}, "lacks 75"),
    ],
    ids=["tensor", "list", "numbers", "a tensor called model"],
)
def test_files_without_weights_are_refused_before_a_search(content, message, tmp_path):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(InvalidHyperparameter, match=message):
        fetch_weights(config(checkpoint_path=str(tmp_path / "w.pth")), IMAGES)


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("planted"),))


def test_a_planted_pickle_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Bomb()}, tmp_path / "w.pth")
    with pytest.raises(InvalidHyperparameter, match="holds no plain weights"):
        build_model(config(checkpoint_path=str(tmp_path / "w.pth")), IMAGES, 3)
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
    assert same_backbone(build_model(own, IMAGES, 3), donor)
    with pytest.raises(WeightsUnavailable, match="cannot be read"):
        check_model(config(checkpoint_name="local-dir:/nowhere"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda weights: {f"backbone.{key}": value for key, value in weights.items()},
            r"weights of local-dir:.* lack \d+ of the 45 tensors .*stay random: conv1\.0\.weight",
        ),
        (lambda weights: {key: value for key, value in weights.items() if key != "layer1.0.conv1.weight"}, r"lack 1 of the 45 .*: layer1\.0\.conv1\.weight$"),
        (lambda weights: timm.create_model("test_vit").state_dict(), "lack"),
        (lambda weights: None, "weights of local-dir:.* cannot be loaded: "),
    ],
    ids=["another prefix", "one is absent", "another model's", "no file"],
)
def test_a_folder_with_other_weights_is_refused_and_not_left_random(donor, tmp_path, change, message):
    folder_of(donor, tmp_path, change(donor.state_dict()))
    own = config(checkpoint_name=f"local-dir:{tmp_path}", pretrained=True)
    check_model(own)
    with pytest.raises(WeightsUnavailable, match=message):
        fetch_weights(own, IMAGES)


def folder_of(model, folder, weights):
    from timm.models import save_for_hf

    save_for_hf(model, folder, model_args={})
    for file in (*folder.glob("*.bin"), *folder.glob("*.safetensors")):
        file.unlink()
    if weights is not None:
        save_file(weights, folder / "model.safetensors")


@pytest.mark.parametrize("image_size", [32, None])
def test_a_folder_with_a_size_of_its_own(tmp_path, image_size):
    own = timm.create_model("test_vit", img_size=96, num_classes=10)
    folder_of(own, tmp_path, own.state_dict())
    described = json.loads((tmp_path / "config.json").read_text())
    cfg = described["pretrained_cfg"] | {"input_size": [3, 96, 96], "fixed_input_size": True}
    (tmp_path / "config.json").write_text(json.dumps({**described, "pretrained_cfg": cfg, "model_args": {}}))
    chosen = config(checkpoint_name=f"local-dir:{tmp_path}", pretrained=True, image_size=image_size)
    check_model(chosen)
    fetch_weights(chosen, IMAGES)
    model = build_model(chosen, IMAGES, 3)
    assert same_backbone(model, own) == (image_size is None)  # otherwise the position embeddings are resampled
    assert image_spec(chosen).size == (image_size or 96)


def test_weights_without_counted_batches_are_whole(donor, tmp_path):
    save_file({key: value for key, value in donor.state_dict().items() if "num_batches" not in key}, tmp_path / "w.safetensors")
    own = config(checkpoint_path=str(tmp_path / "w.safetensors"))
    fetch_weights(own, IMAGES)
    assert same_backbone(build_model(own, IMAGES, 3), donor)


def test_a_weights_file_is_read_once_for_a_search(published, monkeypatch):
    reads, read = [], timm_image._read_weights
    monkeypatch.setattr(timm_image, "_read_weights", lambda *args: reads.append(args) or read(*args))
    for batch_size in (32, 64):
        fetch_weights(config(checkpoint_path=published).with_overrides({"env.batch_size": batch_size}), IMAGES)
    assert len(reads) == 1


def test_the_same_weights_come_without_fetching_when_ours_follow():
    build_model(config(pretrained=True), IMAGES, 3, load_weights=False)


def test_defaults_name_a_model_that_exists():
    assert timm.is_model(TimmImage().checkpoint_name)


def test_weights_of_another_image_size_are_adapted(tmp_path):
    torch.save(timm.create_model("test_vit", num_classes=10).state_dict(), tmp_path / "w.pth")  # for 160 pixels
    build_model(config(checkpoint_name="test_vit", checkpoint_path=str(tmp_path / "w.pth")), IMAGES, 3)


def learned(own, images) -> set[str]:
    """Names of the tensors that three training steps change."""
    model = build_model(own, IMAGES, 3).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD([parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.1)
    for _ in range(3):
        model(batch_of(images)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


@pytest.fixture
def published(donor, tmp_path) -> str:
    torch.save(donor.state_dict(), tmp_path / "published.pth")
    return str(tmp_path / "published.pth")


def test_a_head_alone_learns(published):
    images = torch.randint(0, 256, (4, 1, 3, 32, 32), dtype=torch.uint8)
    assert learned(config(trainable="head", checkpoint_path=published), images) == {"head.weight", "head.bias"}


def test_norm_statistics_stay_frozen_where_there_are_published_ones(published):
    images = torch.randint(0, 256, (4, 1, 3, 32, 32), dtype=torch.uint8)
    for own, frozen in (
        ({"checkpoint_path": published, "frozen_norm_stats": True}, True),
        ({"checkpoint_path": published}, False),
        ({"frozen_norm_stats": True}, False),
    ):
        changed = learned(config(**own), images)
        assert any("running_mean" in name for name in changed) != frozen
        assert any(name.endswith("bn1.weight") for name in changed)


def test_layers_decay_by_timms_groups():
    model = build_model(config(checkpoint_name="test_vit"), IMAGES, 3)
    scales = model.backbones["timm_image"].lr_scales(0.5)
    assert scales["backbone.patch_embed.proj.weight"] < scales["backbone.blocks.0.attn.qkv.weight"] < scales["backbone.blocks.5.attn.qkv.weight"]
    assert scales["backbone.norm.weight"] == 1
    assert scales["backbone.blocks.1.mlp.fc1.weight"] == 2 * scales["backbone.blocks.0.mlp.fc1.weight"]
