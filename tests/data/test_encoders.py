"""What the predictor remembers to see new rows as it saw the training ones."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from automm_hpo.config import Data
from automm_hpo.data.columns import ColumnTypes
from automm_hpo.data.encoders import Encoders, fit_encoders
from automm_hpo.data.images import ImageGeometry
from automm_hpo.errors import InvalidData

ENCODERS = Encoders({"front": "image_path", "back": "image_path"}, ImageGeometry(256, "bilinear"))


def test_fit_takes_the_image_columns_in_order():
    types = {"back": "null", "b": "image_path", "n": "numerical", "a": "image_path"}
    table = pd.DataFrame({column: [1.0, 2.0] for column in types})
    assert list(fit_encoders(ColumnTypes(types, dict.fromkeys(types, "given")), table, Data(), ENCODERS.geometry).image_columns) == ["b", "a"]


def test_json_round_trip():
    assert Encoders.from_json(json.loads(json.dumps(ENCODERS.to_json()))) == ENCODERS


def test_paths_are_matched_by_name():
    table = pd.DataFrame({"extra": [1, 2], "back": ["b0", "/abs/b1"], "front": ["f0", "f1"]}, index=[7, 7])
    assert ENCODERS.image_sources(table, Path("/data")) == [["/data/f0", "/data/b0"], ["/data/f1", "/abs/b1"]]
    assert ENCODERS.image_sources(table.head(0), Path("/data")) == []


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA, pd.NaT, ""])
def test_a_missing_value_is_an_empty_path(missing):
    table = pd.DataFrame({"image": pd.Series([missing, Path("a.png"), np.str_("b.png")], dtype=object)})
    assert Encoders({"image": "image_path"}, ENCODERS.geometry).image_sources(table, Path("/")) == [[""], ["/a.png"], ["/b.png"]]


@pytest.mark.parametrize("value", [b"a.png", 3, ["a.png"], np.zeros((2, 2)), {"path": "a.png"}], ids=lambda value: type(value).__name__)
def test_a_value_that_is_no_path_is_refused_by_column_and_row(value):
    table = pd.DataFrame({"image": pd.Series(["a.png", value], dtype=object, index=["r0", "r1"])})
    with pytest.raises(InvalidData, match=f"column 'image', row 'r1': expected the path of an image, got {type(value).__name__}"):
        Encoders({"image": "image_path"}, ENCODERS.geometry).image_sources(table, Path("/"))


@pytest.mark.parametrize(
    "columns, message",
    [(["front", "bakc"], "missing columns: 'back'; the data has 'front', 'bakc'. Did you mean bakc"), ([0], "'front', 'back'; the data has 0")],
)
def test_missing_columns_are_named(columns, message):
    with pytest.raises(InvalidData, match=message):
        ENCODERS.image_sources(pd.DataFrame([["x"] * len(columns)], columns=columns), Path("/"))


def test_a_column_named_by_a_number_is_missed_by_its_name():
    with pytest.raises(InvalidData, match="missing columns: 5"):
        Encoders({5: "image_path"}, ENCODERS.geometry).image_sources(pd.DataFrame({"image": ["a.png"]}), Path("/"))
