"""Rows that a model has learned from are recognised."""

import datetime
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from automm_hpo.data.columns import ColumnTypes
from automm_hpo.data.seen import digests_from_text, digests_to_text, row_digests

HERE = Path("/data")


def types(table, **kinds):
    kinds = {column: kinds.get(column, "categorical") for column in table.columns if column != "label"}
    return ColumnTypes(kinds, dict.fromkeys(kinds, "given"))


def digests(table, folder=HERE, **kinds):
    return row_digests(table, types(table, **kinds), "label", folder)


def plain():
    return pd.DataFrame({"number": [1, 2, 3], "text": ["a", "b", None], "label": ["x", "y", "x"]})


def test_equal_rows_are_equal_whatever_stands_around_them():
    table = plain()
    expected = digests(table)
    assert len(set(expected)) == 3
    assert (digests(table.iloc[::-1].set_index(pd.Index([7, 8, 9])))[::-1] == expected).all()
    more = table.assign(extra=1)
    assert (row_digests(more[["extra", "label", "text", "number"]], types(table), "label", HERE) == expected).all()
    assert (digests(table.astype({"number": float})) == expected).all()
    assert (digests(table.astype({"number": "Int64", "text": "string", "label": "category"})) == expected).all()


@pytest.mark.parametrize(("column", "value"), [("number", 9), ("text", "c"), ("label", "y"), ("number", np.nan), ("text", "")])
def test_any_cell_counts(column, value):
    changed = plain().astype({"number": float})
    same = value == "" and column == "text"  # an empty text counts as a missing one
    changed.loc[2 if same else 0, column] = value
    assert (digests(changed) == digests(plain())).tolist() == ([True] * 3 if same else [False, True, True])


def test_zeros_are_alike_and_so_is_what_is_missing():
    table = pd.DataFrame({"number": [0.0, -0.0], "text": [None, np.nan], "label": [1.5, 1.5]})
    assert len(set(digests(table))) == 1


def test_pictures_go_by_path_or_by_content():
    paths = pd.DataFrame({"image": ["a.png", "/data/a.png", "b.png"], "label": 0})
    found = digests(paths, image="image_path")
    assert found[0] == found[1] != found[2]
    assert found[0] != digests(paths, Path("/other"), image="image_path")[0]
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    held = [pixels, pixels + 1, Image.fromarray(pixels), pixels.tobytes()]
    same = [pixels.copy(), pixels + 1, Image.fromarray(pixels.copy()), bytearray(pixels.tobytes())]
    first, second = (digests(pd.DataFrame({"image": pd.Series(images, dtype=object), "label": 0}), image="image_bytearray") for images in (held, same))
    assert len(set(first)) == 4
    assert (first == second).all()


def test_names_that_are_not_utf_8_dates_and_whatever_else_a_cell_holds():
    odd = ["\udcff.png", datetime.date(9999, 12, 31), pd.Timestamp("2024-01-01"), True, np.float32(1), [1, 2], pd.NaT]
    table = pd.DataFrame({"cell": pd.Series(odd, dtype=object), "label": range(len(odd))})
    assert len(set(digests(table))) == len(odd)


def test_they_are_the_same_in_another_process_and_in_a_file():
    found = digests(plain())
    code = (
        "import pandas as pd; from pathlib import Path; from automm_hpo.data.columns import ColumnTypes; from automm_hpo.data.seen import row_digests;"
        "table = pd.DataFrame({'number': [1, 2, 3], 'text': ['a', 'b', None], 'label': ['x', 'y', 'x']});"
        "kinds = dict.fromkeys(['number', 'text'], 'categorical');"
        "print(row_digests(table, ColumnTypes(kinds, kinds), 'label', Path('/data')).tolist())"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == str(found.tolist())
    assert set(digests_from_text(digests_to_text(np.concatenate([found, found])))) == set(found)
    assert len(digests_from_text("")) == 0


def test_what_is_read_alike_is_known_again_however_it_is_written():
    table = pd.DataFrame({"when": ["2020-01-01", "2021-02-03T10:00:00"], "code": [1, 2], "size": [1.0, 2.5], "label": [0, 1]})
    kinds = {"when": "datetime", "code": "categorical", "size": "numerical"}
    other = table.assign(when=pd.to_datetime(table["when"], format="ISO8601"), code=table["code"].astype(str), size=table["size"].astype(str), label=[0.0, 1.0])
    assert (digests(other, **kinds) == digests(table, **kinds)).all()
    assert not (digests(table.assign(when="2022-01-01"), **kinds) == digests(table, **kinds)).any()


def test_several_pictures_in_a_cell():
    table = pd.DataFrame({"image": ["a.png;b.png", "a.png"], "label": [0, 1]})
    found = digests(table, image="image_path")
    assert (digests(table.assign(image=[["a.png", "b.png"], ["a.png"]]), image="image_path") == found).all()
    assert digests(table.assign(image="a.png;c.png"), image="image_path")[0] != found[0]
