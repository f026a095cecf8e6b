"""Cells with several images: lists, or paths separated by semicolons as in AutoMM."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from automm_hpo import MultiModalPredictor
from automm_hpo.data.cache import build_cache, open_cache, store_caches
from automm_hpo.data.columns import ColumnTypes, infer_columns
from automm_hpo.data.encoders import Encoders, count_pictures
from automm_hpo.data.images import ImageGeometry, pictures_in
from automm_hpo.data.tables import fingerprint
from automm_hpo.errors import BadImages

GEOMETRY = ImageGeometry(4)
COLUMNS = ColumnTypes({"image": "image_path"}, {"image": ""})


@pytest.fixture
def folder(tmp_path):
    """Images a.png to d.png, each of one grey, and one whose name has a semicolon."""
    for grey, name in enumerate(["a", "b", "c", "d", "e;f"], 1):
        Image.new("RGB", (8, 8), (10 * grey,) * 3).save(tmp_path / f"{name}.png")
    return tmp_path


def encoders(most):
    return Encoders({"image": "image_path"}, GEOMETRY, num_pictures={"image": most})


def greys(cache):
    return cache.batch(slice(None)).images[:, :, 0, 0, 0].tolist()


def test_what_a_cell_has(folder):
    assert pictures_in("a.png; b.png;", True, folder) == ["a.png", "b.png"]
    assert pictures_in("e;f.png", True, folder) == ["e;f.png"]  # there is such a file
    assert pictures_in("data:image/png;base64,AAAA", True, folder) == ["data:image/png;base64,AAAA"]
    assert pictures_in(["a.png", None], True, folder) == ["a.png", None]
    assert pictures_in(np.array(["a.png", "b.png"], object), True, folder) == ["a.png", "b.png"]  # from a parquet file
    assert pictures_in([], True, folder) == [""]
    assert pictures_in(str(["a.png", "e;f.png", None]), True, folder) == ["a.png", "e;f.png", None]  # from a CSV file
    assert pictures_in('["a.png"]', True, folder) == ["a.png"]
    assert pictures_in("[]", True, folder) == [""]
    for other in ("[a.png]", "[1, 2]", "[a.png"):
        assert pictures_in(other, True, folder) == [other]
    assert pictures_in(";", True, folder) == [""]
    assert pictures_in("a;b", False, folder) == ["a;b"]


def test_the_most_of_a_cell_up_to_a_limit(folder):
    table = pd.DataFrame({"image": ["a.png;b.png;c.png", "d.png", None]})
    assert count_pictures(COLUMNS, table, folder, 1) == {}
    assert count_pictures(COLUMNS, table, folder, 2) == {"image": 2}
    assert count_pictures(COLUMNS, table, folder, 9) == {"image": 3}
    assert count_pictures(COLUMNS, table[1:], folder, 9) == {}


@pytest.mark.parametrize(
    "cells", [["a.png;b.png", "c.png"], [["a.png", "b.png"], ["c.png"]], ["['a.png', 'b.png']", "['c.png']"], [[b"", "b.png"], "c.png"]], ids=str
)
def test_columns_of_them_are_inferred(folder, cells):
    cells = [[(folder / "a.png").read_bytes(), "b.png"] if isinstance(cell, list) and b"" in cell else cell for cell in cells]
    table = pd.DataFrame({"image": cells * 5, "label": range(10)})
    assert infer_columns(table, ["label"], folder)["image"].startswith("image")


def test_rows_with_fewer_are_filled_up_with_their_own(folder):
    """Black images would enter the statistics of batch norm; the repeated ones have no influence."""
    table = pd.DataFrame({"image": ["a.png;b.png;c.png", "d.png", "c.png;a.png"]})
    encoded = encoders(3).transform(table, folder)
    assert encoded.num_images == 3
    store_caches(folder / "cache", {"train": encoded}, GEOMETRY)
    cache = open_cache(folder / "cache", "train")
    assert cache.image_mask.tolist() == [[True] * 3, [True, False, False], [True, True, False]]
    assert greys(cache) == [[10, 20, 30], [40, 40, 40], [30, 10, 30]]
    assert torch.equal(cache.batch(torch.tensor([2, 0])).images, cache.batch(slice(None)).images[[2, 0]])


def test_to_predict_nothing_is_decoded_twice(folder):
    cache, bad = build_cache(encoders(3).transform(pd.DataFrame({"image": ["a.png;b.png", "d.png"]}), folder), GEOMETRY)
    assert not bad
    assert cache.image_mask.tolist() == [[True, True, False], [True, False, False]]
    assert greys(cache) == [[10, 20, 0], [40, 0, 0]]


@pytest.mark.parametrize("strategy", ["raise", "zero"])
def test_a_cell_without_any_is_missing_and_one_with_fewer_is_not(folder, strategy):
    encoded = encoders(2).transform(pd.DataFrame({"image": ["a.png;b.png", None, "c.png"]}), folder)
    if strategy == "raise":
        with pytest.raises(BadImages, match=r"1 image cannot be read \(row 1\): missing"):
            store_caches(folder / "cache", {"train": encoded}, GEOMETRY, strategy)
    else:
        store_caches(folder / "cache", {"train": encoded}, GEOMETRY, strategy)
        assert greys(open_cache(folder / "cache", "train")) == [[10, 20], [0, 0], [30, 30]]


def test_a_bad_one_is_named(folder):
    encoded = encoders(2).transform(pd.DataFrame({"image": ["a.png;b.png", "c.png;gone.png"]}), folder)
    with pytest.raises(BadImages, match=r"1 image cannot be read \(row 1: .*gone\.png\): no such file"):
        store_caches(folder / "cache", {"train": encoded}, GEOMETRY)


def test_what_is_not_read_is_said(folder):
    told = []
    table = pd.DataFrame({"image": ["a.png;b.png;c.png", "d.png"]})
    assert encoders(1).transform(table, folder, report=told.append).images == [[str(folder / "a.png")], [str(folder / "d.png")]]
    assert told == [
        "'image': of the pictures in a cell the first one is read: no training row had more, or model.timm_image.max_image_num_per_column allows no more"
    ]
    assert [Path(path).name for path in encoders(2).image_files(table, folder)] == ["a.png", "b.png", "d.png"]


def test_pictures_in_memory_are_told_apart_by_what_they_show():
    def table(grey):
        return pd.DataFrame({"image": [[Image.new("L", (4, 4), grey), np.zeros((4, 4), np.uint8)]]})

    assert fingerprint(table(1)) == fingerprint(table(1)) != fingerprint(table(2))


def test_a_fit_and_what_its_predictor_reads(small, here, fast):
    """Rows have two images, given as paths and later as lists; a row with one image equals a row that has it twice."""
    train, test = small
    pairs = train.assign(image=[f"{path};{other}" for path, other in zip(train["image"], train["image"].iloc[::-1], strict=True)])
    hyperparameters = fast | {"model.timm_image.max_image_num_per_column": 4}
    MultiModalPredictor("label", verbosity=0).fit(pairs, hyperparameters=hyperparameters, save_path="run", tracking=None)
    predictor = MultiModalPredictor.load("run")
    paths = test["image"].tolist()
    first = predictor.predict_proba(test.assign(image=[[path, path] for path in paths]))
    assert np.allclose(predictor.predict_proba(test), first, atol=1e-5)
    assert np.allclose(predictor.predict_proba(test.assign(image=[f"{path};{path}" for path in paths])), first, atol=1e-5)
    three = predictor.predict_proba(test.assign(image=[[path, path, paths[0]] for path in paths]))  # training had two per row
    assert np.allclose(three, first, atol=1e-5)
