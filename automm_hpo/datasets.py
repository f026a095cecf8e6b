"""A real data set in the form that users have, image files and a table, for demos, tutorials and tests.

Fashion-MNIST: 70,000 photographs of clothes, 28 x 28 grey pixels, 10 classes. Xiao, Rasul, Vollgraf, "Fashion-MNIST: a Novel Image Dataset
for Benchmarking Machine Learning Algorithms", 2017. Copyright (c) 2017 Zalando SE, MIT licence (``assets/LICENSE.fashion-mnist``).
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import os
import shutil
import urllib.request
import zlib
from pathlib import Path

import numpy as np
import pandas as pd

from .errors import CorruptFile, MissingData, SavePathExists

FASHION_CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
SUBSET = Path(__file__).parent / "assets" / "fashion_mnist_4000.npz"
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")  # where Debian's package dataset-fashion-mnist installs it
DOWNLOAD = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"  # the authors' own site
IDX_FILES = {  # name -> SHA-256 of the unpacked content (the .gz files themselves may differ)
    "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    "train-images-idx3-ubyte.gz": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte.gz": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
}


def fashion_mnist(folder: str | Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Unpacks 2,000 training and 2,000 test images, 200 of each class, which ship with this package.

    Args:
        folder: where ``train/*.png``, ``train.csv``, ``test/*.png`` and ``test.csv`` are written. Files from an earlier call are only read.

    Returns:
        (train, test) with columns ``image`` (absolute path) and ``label`` (class name).

    Raises:
        SavePathExists: the folder holds another data set.
    """
    with np.load(SUBSET, allow_pickle=False) as subset:
        train, test = (_unpack(Path(folder), split, subset[f"{split}_images"], subset[f"{split}_labels"]) for split in ("train", "test"))
    return train, test


def fashion_mnist_full(folder: str | Path, source: str | Path | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Unpacks all 60,000 training and 10,000 test images.

    Args:
        folder: as for ``fashion_mnist``.
        source: folder with the four ``.gz`` files; None: they come from Debian's package dataset-fashion-mnist if it is installed, else they are downloaded.

    Returns:
        As ``fashion_mnist``.

    Raises:
        MissingData: ``source`` lacks a file, or it could not be downloaded.
        CorruptFile: a file is not the published one.
        SavePathExists: the folder holds another data set.
    """
    arrays = {}
    for name in IDX_FILES:
        raw = _published(name, Path(source) if source else DEBIAN_FOLDER, Path(folder) / "download", allow_download=source is None)
        arrays[name] = np.frombuffer(raw, np.uint8, offset=16 if "idx3" in name else 8)
    splits = []
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images = arrays[f"{prefix}-images-idx3-ubyte.gz"].reshape(-1, 28, 28)
        splits.append(_unpack(Path(folder), split, images, arrays[f"{prefix}-labels-idx1-ubyte.gz"]))
    return splits[0], splits[1]


def _published(name: str, source: Path, download: Path, allow_download: bool) -> bytes:
    path = source / name
    if not path.exists() and allow_download:
        path = download / name
        if not path.exists():
            download.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f"{name}.part")
            try:
                with urllib.request.urlopen(DOWNLOAD + name, timeout=30) as response, open(partial, "wb") as file:
                    shutil.copyfileobj(response, file)
            except (OSError, http.client.HTTPException) as error:
                raise MissingData(f"{name} is not in {source} (Debian: apt install dataset-fashion-mnist) and cannot be downloaded: {error}") from None
            os.replace(partial, path)
    if not path.exists():
        raise MissingData(f"no such file: {path}")
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise CorruptFile(f"{path} does not unpack: {error}. Remove it and get it again.") from None
    if hashlib.sha256(content).hexdigest() != IDX_FILES[name]:
        raise CorruptFile(f"{path} is not the published file: the SHA-256 of its content differs. Remove it and get it again.")
    return content


def _unpack(folder: Path, split: str, images: np.ndarray, labels: np.ndarray) -> pd.DataFrame:
    """(N, 28, 28) uint8, (N,) -> PNG files and a CSV with relative paths, unless they exist; returns the table with absolute paths."""
    from PIL import Image

    table_path = folder / f"{split}.csv"
    if not table_path.exists():
        (folder / split).mkdir(parents=True, exist_ok=True)
        names = [f"{split}/{row:05d}.png" for row in range(len(images))]
        for name, pixels in zip(names, images, strict=True):
            Image.fromarray(pixels).save(folder / name)
        table = pd.DataFrame({"image": names, "label": [FASHION_CLASSES[label] for label in labels]})
        table.to_csv(folder / f".{split}.csv.tmp", index=False)
        os.replace(folder / f".{split}.csv.tmp", table_path)  # written last: if the table exists, so do all images
    table = pd.read_csv(table_path)
    if len(table) != len(images):
        raise SavePathExists(f"{table_path} has {len(table):,} rows, not {len(images):,}: the folder holds another data set; give a new one")
    return table.assign(image=[str((folder / name).absolute()) for name in table["image"]])
