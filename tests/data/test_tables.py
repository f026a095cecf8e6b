"""Everything that a user may call a table."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from automm_hpo.data.tables import fingerprint, load_table
from automm_hpo.errors import InvalidData, MissingData

TABLE = pd.DataFrame({"image": ["a.png", "b.png"], "label": ["x", "y"]})


def load(data) -> pd.DataFrame:
    return load_table(data, "train_data")[0]


@pytest.mark.parametrize("name", ["t.csv", "T.CSV", "t.csv.gz", "t.csv.zip", "t.parquet", "t.pq"])
@pytest.mark.parametrize("kind", [str, Path])
def test_files(tmp_path, name, kind):
    (TABLE.to_csv if ".csv" in name.lower() else TABLE.to_parquet)(tmp_path / name, index=False)
    table, folder = load_table(kind(tmp_path / name), "train_data")
    pd.testing.assert_frame_equal(table, TABLE)
    assert folder == tmp_path


def test_a_relative_file_and_a_home(here, monkeypatch):
    TABLE.to_csv("t.csv", index=False)
    monkeypatch.setenv("HOME", str(here))
    assert load_table("t.csv", "train_data")[1] == load_table("~/t.csv", "train_data")[1] == here


@pytest.mark.parametrize(
    "data, num_rows",
    [
        (TABLE, 2),
        ({"image": ["a.png", "b.png"], "label": ["x", "y"]}, 2),
        ({"image": ["a.png", "b.png"], "label": "x"}, 2),
        ({"image": pd.Series(["a.png"], index=[9]), "label": np.array(["x"])}, 1),
        ({"image": "a.png", "label": "x"}, 1),
        ({"image": Path("a.png"), "label": np.int64(3)}, 1),
        ({"image": None, "label": pd.NA}, 1),
        ([{"image": "a.png", "label": "x"}, {"image": "b.png", "label": "y"}], 2),
        (({"image": "a.png", "label": "x"},), 1),
        (TABLE.head(0), 0),
    ],
)
def test_objects(here, data, num_rows):
    table, folder = load_table(data, "data")
    assert list(table.columns) == ["image", "label"]
    assert len(table) == num_rows
    assert folder == here


@pytest.mark.parametrize("data", [{}, [], ()])
def test_nothing_is_an_empty_table(data):
    assert load(data).shape == (0, 0)


@pytest.mark.parametrize(
    ("data", "num_rows"),
    [
        ({"a": 1.0, "tags": ["x", "y", "z"], "meta": {"ip": 1, "agent": 2}, "none": []}, 1),
        ({"a": 1.0, "b": np.array(2.0), "tags": ["x"]}, 1),
        ({"a": np.zeros((4, 4, 3), np.uint8), "b": 1}, 1),  # an image
        ({"a": [1, 2], "b": "x", "tags": ["x", "y", "z"]}, 2),
        ({"a": {0: 1, 1: 2}, "b": {0: 3, 1: 4}, "tags": "x"}, 2),  # as DataFrame.to_dict returns it
        ([], 0),
        (pd.DataFrame([[1, 2, 3, 4]], columns=["a", "b", "c", "c"]), 1),
    ],
)
def test_columns_that_nobody_looks_at_do_not_matter(data, num_rows):
    table, _ = load_table(data, "data", ("a", "b"))
    assert len(table) == num_rows
    assert "a" in table.columns


def test_the_callers_index_is_kept_and_nothing_is_changed():
    given = TABLE.set_index(pd.Index(["r", "r"]))
    before = given.copy(deep=True)
    assert list(load(given).index) == ["r", "r"]
    pd.testing.assert_frame_equal(given, before)


def write(folder: Path, name: str, content: bytes | None) -> Path:
    if content is None:
        (folder / name).mkdir()
    else:
        (folder / name).write_bytes(content)
    return folder / name


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("t.xlsx", b"x", "expected a .csv or .parquet file, got t.xlsx"),
        ("t", b"x", "expected a .csv"),
        ("t.parquet", b"not parquet", "t.parquet does not read as .parquet"),
        ("t.csv", b"", "t.csv does not read as .csv: EmptyDataError"),
        ("t.csv", b"a,b\n1,2\n1,2,3\n", "does not read as .csv: ParserError"),
        ("t.csv", b"a,b\n\xe9,1\n", "does not read as .csv: UnicodeDecodeError"),
        ("t.csv", b"a,b,a\n1,2,3\n", "column names must be unique; repeated: 'a'"),  # pandas would rename it to a.1
        ("t.csv", b",a,a\n1,2,3\n", "repeated: 'a'"),
    ],
)
def test_unreadable_files(tmp_path, name, content, message):
    with pytest.raises(InvalidData, match=f"train_data: .*{message}"):
        load(write(tmp_path, name, content))


def test_names_that_only_look_repeated(tmp_path):
    assert list(load(write(tmp_path, "t.csv", b"a,a.1,\n1,2,3\n")).columns) == ["a", "a.1", "Unnamed: 2"]


@pytest.mark.timeout(10)  # opening a FIFO waits for a writer
@pytest.mark.parametrize(
    "name, message",
    [
        ("absent.csv", "no such file"),
        ("~nosuchuser/t.csv", "no such file"),
        ("x" * 5_000, "no such file"),
        ("a\0.csv", "no such file"),
        ("dir.csv", "not a file"),
        ("fifo.csv", "not a file"),
    ],
)
def test_no_such_file(here, name, message):
    write(here, "dir.csv", None)
    os.mkfifo("fifo.csv")
    with pytest.raises(MissingData, match=f"train_data: {message}: .*{name[-5:]}") as raised:
        load(name)
    assert isinstance(raised.value, FileNotFoundError)


@pytest.mark.parametrize(
    "data, message",
    [
        (pd.DataFrame([[1, 2, 3]], columns=["a", "b", "a"]), "repeated: 'a'"),
        ({"a": [1, 2], "b": [1]}, "does not read as a table: All arrays must be of the same length"),
        ({"a": {1, 2}}, "does not read as a table"),
        *(
            (odd, f"expected a DataFrame, a path, a dict or a list of dicts, got {type(odd).__name__}")
            for odd in (None, 3, b"t.csv", [1], pd.Series([1]), np.zeros(2))
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_is_no_table(data, message):
    with pytest.raises(InvalidData, match=f"train_data: {message}|train_data: column names must be unique; {message}"):
        load(data)


def test_a_label_is_the_same_in_every_chunk_of_a_long_file(tmp_path):
    """Read in pandas' chunks, the 1 in the first would be a number and the 1 in the last a string: two classes."""
    rows = 600_000
    path = write(tmp_path, "t.csv", b"label\n" + b"1\n" * rows + b"x\n1\n")
    assert set(load(path)["label"]) == {"1", "x"}


@pytest.mark.parametrize("make", [lambda grey: np.full((4, 4), grey, np.uint8), lambda grey: Image.new("L", (4, 4), grey), lambda grey: bytes([grey])])
def test_pictures_in_cells_are_fingerprinted_by_content(make):
    def table(*greys):
        return pd.DataFrame({"x": pd.Series([make(grey) for grey in greys], dtype=object)})

    assert fingerprint(table(1, 2)) == fingerprint(table(1, 2))
    assert fingerprint(table(1, 2)) != fingerprint(table(1, 3))


def test_a_fingerprint_of_file_names_that_are_not_utf8():
    names = pd.DataFrame({"image": pd.Series([os.fsdecode(b"\xff.png"), os.fsdecode(b"\xfe.png")] * 2, dtype=object)})
    assert fingerprint(names) == fingerprint(names.copy())
    assert fingerprint(names) != fingerprint(names[::-1])
