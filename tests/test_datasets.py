"""The shipped data sets, and the full one from files with checked checksums."""

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from automm_hpo import datasets
from automm_hpo.datasets import FASHION_CLASSES, fashion_mnist, fashion_mnist_full
from automm_hpo.errors import CorruptFile, MissingData, SavePathExists


def test_the_subset_is_balanced_and_readable(fashion):
    for table in fashion:
        assert list(table.columns) == ["image", "label"]
        assert table["label"].value_counts().to_dict() == dict.fromkeys(FASHION_CLASSES, 200)
        assert table["image"].is_unique
        with Image.open(table["image"].iloc[-1]) as image:
            assert (image.size, image.mode) == ((28, 28), "L")
    assert not {Image.open(path).tobytes() for path in fashion[0]["image"]} & {Image.open(path).tobytes() for path in fashion[1]["image"]}


def test_a_second_call_only_reads(fashion):
    folder = Path(fashion[0]["image"][0]).parent.parent

    def times() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}

    before = times()
    again = fashion_mnist(folder)
    assert times() == before
    assert len(before) == 4_000 + 4  # two folders, two tables
    for first, second in zip(fashion, again, strict=True):
        pd.testing.assert_frame_equal(first, second)


@pytest.fixture
def source(tmp_path, monkeypatch) -> Path:
    """Four small files in the published format; their checksums replace the published ones."""
    folder = tmp_path / "source"
    folder.mkdir()
    rng = np.random.default_rng(0)
    sums = {}
    for name in datasets.IDX_FILES:
        rows = 5 if name.startswith("train") else 3
        content = bytes(16) + rng.integers(0, 255, (rows, 28, 28), dtype=np.uint8).tobytes() if "idx3" in name else bytes(8) + bytes(range(rows))
        (folder / name).write_bytes(gzip.compress(content))
        sums[name] = hashlib.sha256(content).hexdigest()
    monkeypatch.setattr(datasets, "IDX_FILES", sums)
    return folder


NAME = "train-images-idx3-ubyte.gz"


def check_unpacked(train, test, source):
    assert (list(train["label"]), list(test["label"])) == (list(FASHION_CLASSES[:5]), list(FASHION_CLASSES[:3]))
    pixels = np.frombuffer(gzip.decompress((source / NAME).read_bytes()), np.uint8, offset=16).reshape(5, 28, 28)
    assert (np.asarray(Image.open(train["image"][4])) == pixels[4]).all()


def test_full_from_a_folder(source, tmp_path):
    check_unpacked(*fashion_mnist_full(tmp_path / "out", source), source)


def test_full_downloads_once(source, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "DEBIAN_FOLDER", tmp_path / "nowhere")
    monkeypatch.setattr(datasets, "DOWNLOAD", f"{source.as_uri()}/")
    check_unpacked(*fashion_mnist_full(tmp_path / "out"), source)
    assert {path.name for path in (tmp_path / "out" / "download").iterdir()} == set(datasets.IDX_FILES)
    monkeypatch.setattr(datasets, "DOWNLOAD", "file:///nowhere/")
    check_unpacked(*fashion_mnist_full(tmp_path / "out"), source)


def test_full_absent(source, tmp_path, monkeypatch):
    with pytest.raises(MissingData, match=r"no such file: .*t10k-images"):
        fashion_mnist_full(tmp_path / "out", tmp_path / "nowhere")
    monkeypatch.setattr(datasets, "DEBIAN_FOLDER", tmp_path / "nowhere")
    monkeypatch.setattr(datasets, "DOWNLOAD", "file:///nowhere/")
    with pytest.raises(MissingData, match=r"apt install dataset-fashion-mnist.*cannot be downloaded"):
        fashion_mnist_full(tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.gz"))


@pytest.mark.parametrize("damage", ["another file", "not gzip", "cut", "flip"])
def test_full_with_a_wrong_file(source, tmp_path, damage):
    content = (source / NAME).read_bytes()
    middle = len(content) // 2
    wrong = {
        "another file": gzip.compress(b"something else"),
        "not gzip": b"<html>",
        "cut": content[:middle],
        "flip": content[:10] + bytes(byte ^ 255 for byte in content[10:12]) + content[12:],
    }
    (source / NAME).write_bytes(wrong[damage])
    with pytest.raises(CorruptFile, match=rf"{NAME} .*Remove it and get it again\."):
        fashion_mnist_full(tmp_path / "out", source)
    assert not (tmp_path / "out").exists()


def test_the_subset_is_not_taken_for_the_whole(source, fashion):
    with pytest.raises(SavePathExists, match=r"train\.csv has 2,000 rows, not 5"):
        fashion_mnist_full(Path(fashion[0]["image"][0]).parent.parent, source)
