"""What the predictor stores so that it encodes new rows like the training rows."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from automm_hpo.config import Data
from automm_hpo.data.columns import ColumnTypes
from automm_hpo.data.encoders import Encoders, fit_encoders
from automm_hpo.data.images import Base64, ImageGeometry
from automm_hpo.errors import InvalidData, InvalidInput

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


@pytest.mark.parametrize("kind", ["image_path", "image_bytearray", "image_base64_str"])
def test_a_model_of_files_takes_bytes_and_the_other_way_round(kind):
    picture, code = np.zeros((2, 2), np.uint8), "data:image/png;base64,iVBORw0KGgo="
    given = [b"\x89PNG", bytearray(b"\xff\xd8"), picture, code, Path("a.png")]
    table = pd.DataFrame({"image": pd.Series(given, dtype=object)})
    [[first], [second], [third], [fourth], [last]] = Encoders({"image": kind}, ENCODERS.geometry).image_sources(table, Path("/"))
    assert (first, second, third is picture, fourth, isinstance(fourth, Base64)) == (b"\x89PNG", b"\xff\xd8", True, code, True)
    assert (last, isinstance(last, Base64)) == ("/a.png", False)


def test_a_model_of_base64_takes_paths(tmp_path):
    (tmp_path / "no_suffix").touch()
    given = [Path("a.png"), "lost.PNG", "no_suffix", "https://x/1", "lost", "iVBORw0KGgo="]
    table = pd.DataFrame({"image": pd.Series(given, dtype=object)})
    found = [source for [source] in Encoders({"image": "image_base64_str"}, ENCODERS.geometry).image_sources(table, tmp_path)]
    assert found == [f"{tmp_path}/a.png", f"{tmp_path}/lost.PNG", f"{tmp_path}/no_suffix", *given[3:]]
    assert [isinstance(source, Base64) for source in found] == [False, False, False, False, True, True]


@pytest.mark.parametrize("value", [3, {"path": "a.png"}], ids=lambda value: type(value).__name__)
def test_a_value_that_is_no_picture_is_refused_by_column_and_row(value):
    table = pd.DataFrame({"image": pd.Series(["a.png", value], dtype=object, index=["r0", "r1"])})
    expected = "expected an image as a path, bytes, a PIL image or an array, or a list of such"
    for cell in (value, [value], ["b.png", value]):
        table.loc["r1", "image"] = None
        table.at["r1", "image"] = cell
        with pytest.raises(InvalidData, match=f"column 'image', row 'r1': {expected}, got {type(value).__name__}"):
            Encoders({"image": "image_path"}, ENCODERS.geometry).image_sources(table, Path("/"))


def test_a_tensor_is_told_how_it_becomes_a_picture():
    for cell in (torch.zeros(3, 4, 4), [torch.zeros(3, 4, 4)]):
        table = pd.DataFrame({"image": pd.Series([cell], dtype=object)})
        with pytest.raises(InvalidData, match=r"(?s)got Tensor .*; \.numpy\(\) makes an array of a tensor"):
            Encoders({"image": "image_path"}, ENCODERS.geometry).image_sources(table, Path("/"))


@pytest.mark.parametrize(
    "columns, message",
    [
        (["front", "bakc"], r"missing columns: 'back'; the data has 'front', 'bakc'\. Did you mean bakc"),
        ([0], "'front', 'back'; the data has 0"),
        (["front", "tack"], r"the data has 'front', 'tack'\. Did you mean tack\?$"),
        (["bacon", *range(30)], r"the data has 'bacon', 0, .*, 18, \.\.\. \(31 in all\)"),
    ],
)
def test_missing_columns_are_named(columns, message):
    with pytest.raises(InvalidData, match=message):
        ENCODERS.image_sources(pd.DataFrame([["x"] * len(columns)], columns=columns), Path("/"))


def test_a_missing_column_is_not_taken_for_another_of_training():
    with pytest.raises(InvalidData, match=r"missing columns: 'back2'; the data has 'back1'\.$"):
        Encoders({"back1": "image_path", "back2": "image_path"}, ENCODERS.geometry).image_sources(pd.DataFrame({"back1": ["a.png"]}), Path("/"))


def test_a_column_named_by_a_number_is_missed_by_its_name():
    with pytest.raises(InvalidData, match="missing columns: 5"):
        Encoders({5: "image_path"}, ENCODERS.geometry).image_sources(pd.DataFrame({"image": ["a.png"]}), Path("/"))
    with pytest.raises(InvalidData, match=r"the data has '5'\. Names count by type: '5' is of type str here, 5 was of type int in training"):
        Encoders({5: "image_path"}, ENCODERS.geometry).image_sources(pd.DataFrame({"5": ["a.png"]}), Path("/"))


# ------------------------------------------------------------------------------------------------------ a table of every kind


@pytest.fixture
def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "photo": [f"{i}.png" for i in range(20)],
            "age": [None, *rng.normal(size=19)],
            "when": pd.date_range("2024-01-01", periods=20, freq="9h"),
            "color": ["red", "blue"] * 10,
            "title": [f"text number {i}" for i in range(20)],
            "body": [f"more text {i}" for i in range(20)],
            "empty": [None] * 20,
        }
    )


KINDS = {
    "photo": "image_path", "age": "numerical", "when": "datetime", "color": "categorical", "title": "text", "body": "text", "empty": "null",
}  # fmt: skip


@pytest.fixture
def fitted(table) -> Encoders:
    return fit_encoders(ColumnTypes(KINDS, dict.fromkeys(KINDS, "given")), table, Data(), ENCODERS.geometry)


class Letters:
    """A tokenizer that needs no package."""

    def transform(self, texts):
        counts = np.array([len(text) for text in texts], np.int64)
        tokens = np.zeros((len(texts), counts.max(initial=0) + 1), np.int32)
        for row, text in enumerate(texts):
            tokens[row, : len(text)] = [ord(letter) for letter in text]
        return tokens, counts


def test_every_kind_is_encoded(table, fitted):
    assert fitted.features.num_images == 1
    assert fitted.features.numeric[:3] == ("age", "age: missing", "when: elapsed")
    assert fitted.features.cardinalities == (3,)
    assert fitted.features.num_texts == 2
    encoded = fitted.with_tokenizers({"letters": Letters()}).transform(table, Path("/data"), np.arange(20))
    assert encoded.images[3] == ["/data/3.png"]
    assert encoded.numeric.shape == (20, len(fitted.features.numeric))
    assert encoded.numeric[0, :2].tolist() == [0, 1]
    assert np.isfinite(encoded.numeric).all()
    assert encoded.categorical[:, 0].tolist() == [2, 1] * 10  # equally frequent, so ordered by name
    assert "".join(map(chr, encoded.tokens["letters"][3, : encoded.token_counts["letters"][3]])) == "title: text number 3 body: more text 3"
    assert encoded.target.tolist() == list(range(20))
    assert (encoded.weight == 1).all()
    assert encoded.take(slice(3, 5)).images == [["/data/3.png"], ["/data/4.png"]]


def test_row_i_depends_on_row_i_only(table, fitted):
    whole, part = (fitted.transform(rows, Path("/")) for rows in (table, table.iloc[[7, 3]]))
    assert (whole.numeric[[7, 3]] == part.numeric).all()
    assert (whole.categorical[[7, 3]] == part.categorical).all()


def test_json_round_trip_of_every_kind(table, fitted):
    read = Encoders.from_json(json.loads(json.dumps(fitted.to_json())))
    assert read == fitted
    assert (read.transform(table, Path("/")).numeric == fitted.transform(table, Path("/")).numeric).all()


def test_what_is_unknown_or_missing_is_counted_in_a_line(table, fitted):
    lines: list[str] = []
    fitted.transform(table, Path("/"), report=lines.append)
    assert not lines
    odd = table.assign(color=["mauve", None, *table["color"][2:]], when=[pd.NaT, *table["when"][1:]])
    encoded = fitted.transform(odd, Path("/"), report=lines.append)
    assert encoded.categorical[:2, 0].tolist() == [0, 0]
    assert len(lines) == 2
    assert "'color' in 1 of 20 rows (first 'mauve')" in lines[0]
    assert "missing values where training had none" in lines[1]
    assert "'when' in 1 of 20 rows, 'color' in 1 of 20 rows" in lines[1]


def test_all_columns_with_bad_values_are_told_together(table, fitted):
    with pytest.raises(InvalidInput) as raised:
        fitted.transform(table.assign(age=np.inf, when="soon", photo=5), Path("/"))
    for text in ("column 'photo', row 0: expected an image as a path", "column 'age': expected finite", "column 'when': expected dates"):
        assert text in str(raised.value)
    with pytest.raises(InvalidInput, match=r"(?s)'age'.*'when'"):
        fit_encoders(ColumnTypes(KINDS, dict.fromkeys(KINDS, "given")), table.assign(age="x", when="y"), Data(), None)
    with pytest.raises(InvalidData, match="missing columns: 'color', 'body'"):
        fitted.transform(table.drop(columns=["color", "body"]), Path("/"))
    assert len(fitted.transform(table.drop(columns="empty"), Path("/"))) == 20


def test_no_rows_keep_their_columns(table, fitted):
    encoded = fitted.with_tokenizers({"letters": Letters()}).transform(table.head(0), Path("/"))
    assert (len(encoded), encoded.numeric.shape[1], encoded.categorical.shape, encoded.tokens["letters"].shape[0]) == (
        0, len(fitted.features.numeric), (0, 1), 0,
    )  # fmt: skip


@pytest.mark.parametrize(
    "kind, cells, expected",
    [
        ("image_bytearray", [b"x", bytearray(b"y"), None], [b"x", b"y", ""]),
        ("image_base64_str", ["eA==", "", None], [Base64("eA=="), "", ""]),
    ],
)
def test_pictures_that_are_no_files(kind, cells, expected):
    encoders = Encoders({"p": kind}, ENCODERS.geometry)
    found = encoders.image_sources(pd.DataFrame({"p": pd.Series(cells, dtype=object)}), Path("/"))
    assert [row[0] for row in found] == expected
    assert [type(row[0]) for row in found] == [type(value) for value in expected]
    with pytest.raises(InvalidData, match="column 'p', row 0: expected"):
        encoders.image_sources(pd.DataFrame({"p": [3.5]}), Path("/"))
    assert encoders.image_files(pd.DataFrame({"p": cells}), Path("/")) == []
