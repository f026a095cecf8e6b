"""Which type each column gets, why, and what is refused."""

import base64
import datetime
import decimal
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from automm_hpo.data.columns import infer_columns
from automm_hpo.errors import InvalidArgument, InvalidData, InvalidInput


def png(grey: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (32, 32), grey).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def folder(tmp_path) -> Path:
    for name in ("a.png", "b.jpg", "no_suffix"):
        Image.new("RGB", (4, 4)).save(tmp_path / name, "JPEG" if name.endswith("jpg") else "PNG")
    return tmp_path


def kind_of(values, folder) -> tuple[str, str]:
    """(type, reason) of a column next to an image column."""
    values = values if isinstance(values, pd.Series) else pd.Series(values)
    table = pd.DataFrame({"image": ["a.png"] * len(values), "label": range(len(values)), "x": values})
    columns = infer_columns(table, ["label"], folder)
    assert columns["image"] == "image_path"
    return columns["x"], columns.reasons["x"]


DAYS = [datetime.date(2020, 1, day) for day in range(1, 30)]


@pytest.mark.parametrize(
    "values, kind, reason",
    [
        ([None, None], "null", "all values missing"),
        (pd.Series([pd.NA, pd.NA], dtype="string"), "null", "all values missing"),
        ([7, 7, 7], "null", "constant"),
        (["same"] * 3, "null", "constant"),
        (pd.Series([1.0, None], dtype="Float64"), "categorical", "one value, or missing"),
        (["yes", None, "yes"], "categorical", "one value, or missing"),
        (pd.to_datetime(["2020-01-01", None]), "categorical", "one value, or missing"),
        ([True, False], "categorical", "dtype bool"),
        (pd.Series([True, None], dtype="boolean"), "categorical", "dtype boolean"),
        (pd.Series(["a.png", "b.jpg"], dtype="category"), "categorical", "dtype category"),
        (["red", "blue"] * 20, "categorical", "2 distinct values in 40 rows"),
        (["1", "2"] * 20, "categorical", "2 distinct values in 40 rows"),  # categorical comes before numerical
        ([f"word{i}" for i in range(40)], "null", "all values distinct"),
        ([f"word{i}" for i in range(40)] * 2, "categorical", "short strings"),
        ([f"hand {i}" for i in range(90)] + ["hand 1", None], "text", "nearly all values distinct"),
        ([f"{day}/05/2020" for day in range(1, 32)] * 2 + [f"{day}/06/2020" for day in range(1, 31)], "categorical", "dates?"),
        ([f"{i / 7:.3f}" for i in range(40)] + ["?"], "null", "; 40 of 41 values are numbers, but not '?': set such values to NaN"),
        ([f"{i / 7:.3f}" for i in range(40)] * 2 + ["n/a"], "categorical", "; 80 of 81 values are numbers, but not 'n/a'"),
        ([f"${i},234.50" for i in range(1, 31)], "null", "; numbers? without signs and separators"),
        ([f"{i},17" for i in range(40)] * 2, "categorical", "; numbers?"),
        ([f"{i} %" for i in range(40)] * 2, "categorical", "; numbers?"),
        ([1, "a", None, 2.5], "null", "all values distinct"),
        ([1, "a", None, 2.5, "a"], "categorical", "short strings"),
        ([1.5, 2.5, np.nan], "numerical", "dtype float64"),
        (pd.Series([1, 2, None], dtype="Int64"), "numerical", "dtype Int64"),
        ([str(i) for i in range(40)], "numerical", "all values parse as numbers"),
        ([decimal.Decimal(i) for i in range(40)], "numerical", "all values parse as numbers"),
        (pd.to_datetime(DAYS), "datetime", "dtype datetime64"),
        (DAYS, "datetime", "ISO 8601"),
        ([f"2020-{month:02}-01T00:00:00+0{month % 3}:00" for month in range(1, 13)], "datetime", "ISO 8601"),  # mixed time zones
        (["a.png", "b.jpg"], "image_path", "2 of 2 sampled values open as images"),
        (["a.png"], "image_path", "1 of 1"),
        (["no_suffix", None], "image_path", "1 of 1"),
        ([Path("a.png"), Path("nowhere.png")], "image_path", "1 of 2"),
        ([np.str_("a.png"), np.str_("b.jpg")], "image_path", "2 of 2"),
        (pd.Series(["a.png", pd.NA], dtype="string"), "image_path", "1 of 1"),
        (["http://x/1.PNG", "http://x/2.jpeg"], "image_path", "end like image files"),
        ([f"https://x/picture?id={i}" for i in range(40)], "null", "identifiers; these look like paths or URLs, but none opens as an image"),
        ([f"imgs/{i}" for i in range(40)], "null", "(URLs are not fetched): column_types={'x': 'image_path'} tells why"),
        ([f"/data/my holiday pictures/{i}" for i in range(40)], "text", "; these look like paths or URLs"),
        ([f"{i}/05" for i in range(40)] * 2, "categorical", "short strings"),
        ([png(1), png(2)], "image_bytearray", "bytes"),
        ([b"a.png", b"b.jpg"], "image_bytearray", "bytes"),
        ([Image.new("L", (4, 4)), Image.new("RGB", (9, 4))], "image_bytearray", "PIL images or arrays"),
        ([np.zeros((4, 4), np.uint8), np.zeros((9, 4, 3), np.uint8)], "image_bytearray", "PIL images or arrays"),
        ([np.zeros((4, 4)), np.ones((4, 4))], "image_bytearray", "PIL images or arrays"),  # refused only when they are decoded
        ([np.zeros(9), np.ones(9)], "null", "ndarray: several values in a cell"),
        ([torch.zeros(3, 4, 4), torch.ones(3, 4, 4)], "null", "for images only; .numpy() makes an array of a tensor"),
        ([[torch.zeros(2)], [torch.ones(2)]], "null", "list: several values in a cell are supported for images only; give each"),
        (["10.0.0.1", "10.0.0.2", "10.0.0.1", "192.168.1.1"], "categorical", "short strings"),
        ([f"{number},34 €" for number in range(40)], "text", "nearly all values distinct; numbers? without signs"),
        (pd.to_timedelta([1, 2, None], unit="s"), "numerical", "dtype timedelta64"),
        (["2020-01-01"] * 20 + [f"2020-{month:02}-{day:02}" for month in range(1, 13) for day in (1, 2)] + ["unknown"], "categorical", "short strings"),
        (pd.Series(["2020-01-01", "2020-01-02"], dtype="timestamp[s][pyarrow]"), "datetime", "timestamp"),
        (pd.Series([1, 2], dtype="int64[pyarrow]"), "numerical", "int64[pyarrow]"),
        (pd.Series([True, True]), "null", "constant"),
        ([base64.b64encode(png(i)).decode() for i in range(30)], "image_base64_str", "decode to images"),
        ([f"data:image/png;base64,{base64.b64encode(png(i)).decode()}" for i in range(30)], "image_base64_str", "decode to images"),
        ([f"this is sentence number {i}" for i in range(40)], "text", "three words"),
        (["~nosuchuser is no home", "~nor is this one", "a third text"], "text", "three words"),
        ([f"{i} a\0b \n" + "long " * 2000 for i in range(40)], "text", "three words"),
        ([[1, 2], {"a": 1}, np.zeros(2)], "null", "list: several values in a cell are supported for images only"),
    ],
)
def test_inference(folder, values, kind, reason):
    found, why = kind_of(values, folder)
    assert found == kind
    assert reason in why
    assert ("look like paths" in why) == ("paths" in reason or "URLs" in reason)


def test_a_few_pictures_among_unreadable_ones_are_still_a_picture_column(folder):
    assert kind_of(["a.png"] + ["lost"] * 9, folder) == ("image_path", "1 of 10 sampled values open as images")


def test_file_names_that_are_not_utf8(folder):
    name = b"\xe9.png".decode("utf-8", "surrogateescape")  # as os.listdir returns it
    Image.new("L", (4, 4)).save(folder / name)
    assert kind_of(pd.Series([name, "a.png"], dtype=object), folder) == ("image_path", "2 of 2 sampled values open as images")
    assert kind_of(pd.Series([f"{name} {i}" for i in range(3)], dtype=object), folder)[0] == "text"


def test_the_label_is_no_column_to_learn_from(folder):
    with pytest.raises(InvalidArgument, match="problem_type sets the type of the label"):
        infer_columns(pd.DataFrame({"a": [1, 2], "label": [1, 2]}), ["label"], folder, {"label": "numerical"})


@pytest.fixture
def table() -> pd.DataFrame:
    return pd.DataFrame({"image": ["a.png", "b.jpg"], "price": [1.5, 2.5], "label": ["x", "y"]})


def test_given_types_win(table, folder):
    columns = infer_columns(table, ["label"], folder, {"price": "null"})
    assert dict(columns) == {"image": "image_path", "price": "null"}
    assert columns.reasons["price"] == "given"
    assert columns.of_type("image_path") == ("image",)
    assert len(columns) == 2
    assert infer_columns(table[["price", "label"]], ["label"], folder, {"price": "image_path"})["price"] == "image_path"


def test_relative_paths_count_from_the_folder(table, folder, monkeypatch):
    monkeypatch.chdir("/")
    renamed = table[["image", "label"]].replace({"a.png": "no_suffix", "b.jpg": "no_suffix"})
    assert infer_columns(renamed, ["label"], folder)["image"] == "image_path"
    with pytest.raises(InvalidData, match="no column to learn from"):
        infer_columns(renamed, ["label"], Path("/"))


@pytest.mark.parametrize(
    "given, message",
    [
        ({"imge": "null"}, "no column 'imge'. Did you mean image?"),
        ({5: "null"}, "no column 5"),
        ({"price": "image"}, r"column_types\['price'\]: expected one of null, .*, got 'image'. Did you mean image_path"),
        ({"price": None}, "got None"),
        ({"price": ["null"]}, r"got \['null'\]"),
        (["price"], r"expected a dict of column -> type, got \['price'\]"),
        ("null", "expected a dict"),
    ],
)
def test_wrong_column_types(table, folder, given, message):
    with pytest.raises(InvalidArgument, match=message):
        infer_columns(table, ["label"], folder, given)


def test_all_wrong_column_types_are_told_together(table, folder):
    with pytest.raises(InvalidInput, match=r"(?s)'imge'.*'nul'"):
        infer_columns(table, ["label"], folder, {"imge": "null", "price": "nul"})


@pytest.mark.parametrize("given", [None, {"image": "null", "price": "null"}])
def test_nothing_left_to_learn_from(table, folder, given):
    with pytest.raises(InvalidData, match="expected at least one with values that differ"):
        infer_columns(table if given else table[["label"]], ["label"], folder, given)


def test_all_types_and_reasons_are_a_table(table, folder):
    lines = infer_columns(table, ["label"], folder, {"price": "categorical"}).lines()
    assert [line.split(maxsplit=2) for line in lines] == [
        ["'image'", "image_path", "2 of 2 sampled values open as images"],
        ["'price'", "categorical", "given"],
    ]
    assert len({line.index(word) for line, word in zip(lines, ("image_path", "categorical"), strict=True)}) == 1


def test_many_columns_alike_share_a_line(folder):
    table = pd.DataFrame({"label": range(9), "odd": list("abcabcabc"), **{f"x{number}": np.arange(9.0) for number in range(30)}})
    lines = infer_columns(table, ["label"], folder).lines()
    assert [line.split()[0] for line in lines] == ["'odd'", "'x0',"]
    assert lines[1].startswith("'x0', 'x1', 'x2' and 27 more  numerical")


def test_targets_are_not_learned_from(table, folder):
    assert list(infer_columns(table, ["label", "price"], folder)) == ["image"]


def test_periods_are_dates_and_durations_are_numbers(folder):
    table = pd.DataFrame(
        {
            "quarter": pd.period_range("2020Q1", periods=40, freq="Q"),
            "arrow": pd.Series(pd.timedelta_range("1h", periods=40, freq="37min")).astype("duration[us][pyarrow]"),
            "objects": pd.Series([datetime.timedelta(hours=hours) for hours in range(40)], dtype=object),
            "constant": pd.Series([datetime.timedelta(hours=1)] * 40, dtype=object),
        }
    )
    assert dict(infer_columns(table, [], folder)) == {"quarter": "datetime", "arrow": "numerical", "objects": "numerical", "constant": "null"}


@pytest.mark.parametrize(("numbers", "kind"), [([3, 1, 2], "null"), ([3, 1, 1], "numerical"), ([0.5, 1.5, 2.5], "numerical")])
def test_the_row_numbers_of_a_csv_are_not_learned_from(tmp_path, numbers, kind):
    """They would reveal how the table was sorted."""
    pd.DataFrame({"x": [0.1, 0.2, 0.4], "label": [0, 1, 1]}, index=numbers).to_csv(tmp_path / "table.csv")
    assert infer_columns(pd.read_csv(tmp_path / "table.csv"), ["label"], tmp_path)["Unnamed: 0"] == kind


@pytest.mark.parametrize("name", ["id", "ID", "Id", "store_id", "Store ID", "storeId", "storeID", "store.id"])
@pytest.mark.parametrize("dtype", ["int64", "Int32", "float64", "int64[pyarrow]"])
def test_identifiers_that_come_again_are_categories(name, dtype):
    """A tree can split them, but a network that takes them for amounts cannot."""
    found = infer_columns(pd.DataFrame({name: pd.Series([7, 1, 900, 4] * 5, dtype=dtype)}), [], Path())
    assert found[name] == "categorical"
    assert found.reasons[name] == f"4 identifiers, 5 rows each on average; column_types={{{name!r}: 'numerical'}} where their order matters"


@pytest.mark.parametrize("name", ["covid", "paid", "identity", "idle", "SOLID", "Android", 0])
def test_words_that_end_alike_are_no_identifiers(name):
    assert infer_columns(pd.DataFrame({name: [7, 1, 900, 4] * 5}), [], Path())[name] == "numerical"


def test_identifiers_of_few_rows_say_nothing(tmp_path):
    table = pd.DataFrame({"id": [*range(5)] * 4, "x_id": [0.5, 1, 2, 3] * 5, "c": range(20)})
    assert dict(infer_columns(table, [], tmp_path)) == {"id": "numerical", "x_id": "numerical", "c": "numerical"}


def test_times_of_day_are_numbers(folder):
    times = pd.DataFrame({"at": [datetime.time(number % 24, number % 60) for number in range(40)]})
    assert infer_columns(times, [], folder)["at"] == "numerical"
