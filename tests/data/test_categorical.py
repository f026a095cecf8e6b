"""Codes follow frequency; unknown values are 0, and missing is a category of its own."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from automm_hpo.data.categorical import CategoryEncoder, fit_categories


def column(values, **options) -> pd.Series:
    return pd.Series(values, name="x", **options)


def test_the_most_frequent_come_first_and_ties_by_name():
    encoder = fit_categories(column(["b", "a", "c", "c", "a", "b", "c"]), 1, 100)
    assert encoder.categories == ("c", "a", "b")
    assert encoder.cardinality == 4
    assert encoder.transform(column(["a", "zebra", "c", None])).tolist() == [2, 0, 1, 0]


def test_missing_is_a_category_where_training_had_it():
    encoder = fit_categories(column(["a", "a", None, np.nan]), 1, 100)
    assert encoder.cardinality == 3
    assert encoder.transform(column([None, "a", pd.NA, "b"], dtype=object)).tolist() == [2, 1, 2, 0]


def test_rare_ones_and_those_beyond_the_limit_are_unknown():
    values = column(["a"] * 5 + ["b"] * 4 + ["c"] * 3 + ["d"])
    assert fit_categories(values, 2, 100).categories == ("a", "b", "c")
    assert fit_categories(values, 1, 2).categories == ("a", "b")
    assert fit_categories(column(list("wxyz")), 2, 100).cardinality == 1  # only the unknown code is left


@pytest.mark.parametrize(
    "first, second",
    [
        (column([1, 2, 1]), column([1.0, 2.0, 1.0])),  # pandas reads an integer column with a gap as floats
        (column([1, 2, 1]), column(["1", "2", "1"])),
        (column([True, False, True]), column(["True", "False", "True"])),
        (column([True, False, True]), column([True, False, True], dtype="boolean")),
        (column(["a", "b", "a"]), column(["a", "b", "a"], dtype="category")),
        (column(["a", "b", "a"]), column(["a", "b", "a"], dtype="string[pyarrow]")),
        (column([0.5, 2.5, 0.5]), column(["0.5", "2.5", "0.5"], dtype=object)),
    ],
)
def test_a_category_is_the_same_whatever_dtype_its_column_has(first, second):
    encoder = fit_categories(first, 1, 100)
    assert encoder.transform(first).tolist() == encoder.transform(second).tolist() == [1, 2, 1]


def test_values_of_any_kind():
    assert fit_categories(column([[1], {"a": 2}, (3,), None, 4, "five", b"six"], dtype=object), 1, 100).cardinality == 8


def test_a_column_of_objects_tells_apart_what_python_takes_for_equal():
    encoder = fit_categories(column([True, 1, True, 1.0, "1", "True", None, "\udcff", "\udcfe"], dtype=object), 1, 100)
    assert encoder.categories == ("1", "True", "\udcfe", "\udcff")
    assert encoder.transform(column([1, True, "1", None, 2], dtype=object)).tolist() == [1, 2, 1, 5, 0]


def test_categories_of_a_dtype_that_are_written_alike_are_one():
    encoder = fit_categories(column(pd.Categorical([1, "1", None, 2.0], categories=[2.0, "1", 1, "unused"])), 1, 100)
    assert encoder.categories == ("1", "2")
    assert encoder.transform(column(["2", "1", "unused"])).tolist() == [2, 1, 0]


def test_lists_of_arrow_are_written_as_they_are():
    lists = column([[1, 2], None, [1, 2]], dtype=pd.ArrowDtype(pa.list_(pa.int64())))
    assert fit_categories(lists, 1, 100).transform(lists).tolist() == [1, 2, 1]


def test_json_round_trip():
    encoder = fit_categories(column(["ä", "b", None, "b"]), 1, 100)
    assert CategoryEncoder.from_json(json.loads(json.dumps(encoder.to_json()))) == encoder


def test_true_and_false_may_come_as_numbers():
    encoder = fit_categories(column([True, False, None] * 3, dtype="boolean"), 1, 100)
    expected = encoder.transform(column([True, False, None], dtype="boolean")).tolist()
    assert len(set(expected)) == 3
    for values in ([1, 0, None], [1.0, 0.0, np.nan], ["1", "0", None], ["True", "False", None], ["TRUE", "false", None]):
        assert encoder.transform(column(values)).tolist() == expected
    assert encoder.transform(column([2, "yes"], dtype=object)).tolist() == [0, 0]
    assert fit_categories(column(["True", "1"] * 2), 1, 100).transform(column([1, "True", 0], dtype=object)).tolist() == [1, 2, 0]


def test_large_whole_numbers_stay_apart():
    identifiers = [2**53, 2**53 + 1, 2**63 + 1, 10**400]
    encoder = fit_categories(column(identifiers * 2, dtype=object), 1, 100)
    assert len(encoder.categories) == 4
    assert sorted(encoder.transform(column(identifiers, dtype=object)).tolist()) == [1, 2, 3, 4]
