"""Labels become numbers and come back in their own dtype; labels that cannot are refused, naming their rows."""

import datetime
import decimal
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from automm_hpo.errors import InvalidData, InvalidHyperparameter
from automm_hpo.problem import Problem, encode_weights, infer_problem

Series = pd.Series
ORDERED = pd.CategoricalDtype(["low", "mid", "high", "unused"], ordered=True)


def stored(problem: Problem) -> Problem:
    return Problem.from_json(json.loads(json.dumps(problem.to_json(), allow_nan=False)))


@pytest.mark.parametrize("written", ["{},500.50", "{}500,5", "€{}", "{}.5%"])
def test_prices_are_no_classes(written):
    labels = Series([written.format(number) for number in range(1, 60)])
    with pytest.raises(InvalidData, match="look like numbers with signs or separators"):
        infer_problem(labels, "price")
    assert infer_problem(labels, "price", "multiclass").num_outputs == 59


def test_tiny_numbers_have_a_scale():
    problem = infer_problem(Series([1e-200, 2e-200, 3.5e-200]), "y")
    assert problem.standardise(problem.encode(Series([2e-200, 3e-200]))).tolist() == pytest.approx([-0.16, 0.81], abs=0.01)


@pytest.mark.parametrize(
    "labels, problem_type, classes",
    [
        (Series(list("bacb")), "multiclass", ("a", "b", "c")),
        (Series(list("bacb"), dtype=object), "multiclass", ("a", "b", "c")),
        (Series(list("bacb"), dtype="string"), "multiclass", ("a", "b", "c")),
        (Series([np.str_("y"), np.str_("n")], dtype=object), "binary", ("n", "y")),
        (Series(["10", "9", "8"] * 2), "multiclass", ("10", "8", "9")),
        (Series([3, 1, 2, 1]), "multiclass", (1, 2, 3)),
        (Series([3, 1, 2, 1], dtype="int8"), "multiclass", (1, 2, 3)),
        (Series([3, 1, 2, 1], dtype="Int64"), "multiclass", (1, 2, 3)),
        (Series([3, 1, 2, 1], dtype="int64[pyarrow]"), "multiclass", (1, 2, 3)),
        (Series([-1, 1], dtype=object), "binary", (-1, 1)),
        (Series(list(range(20)) * 2), "multiclass", tuple(range(20))),
        (Series([True, False]), "binary", (False, True)),
        (Series([True, False], dtype="boolean"), "binary", (False, True)),
        (Series([True, False], dtype=object), "binary", (False, True)),
        (Series([0.0, 1.0]), "binary", (0.0, 1.0)),
        (Series([0.1, 0.2], dtype="float32"), "binary", (float(np.float32(0.1)), float(np.float32(0.2)))),
        (Series(["b", "a", "c"], dtype="category"), "multiclass", ("a", "b", "c")),
        (Series([3, 1, 2], dtype="category"), "multiclass", (1, 2, 3)),
        (Series([True, False], dtype="category"), "binary", (False, True)),
        (Series(["high", "low", "mid"], dtype=ORDERED), "multiclass", ("low", "mid", "high")),
        (Series([1, "a", 2.5, "a"]), "multiclass", (1, 2.5, "a")),
        (Series(["x", "y"], index=["r", "r"]), "binary", ("x", "y")),
    ],
)
def test_classes_come_back_in_their_own_dtype(labels, problem_type, classes):
    labels = labels.rename("label")
    problem = infer_problem(labels, "label")
    assert (problem.problem_type, problem.class_labels, problem.num_outputs) == (problem_type, classes, len(classes))
    assert [type(value) for value in problem.class_labels] == [type(value) for value in classes]
    assert problem.positive_class == (classes[1] if len(classes) == 2 else None)
    assert stored(problem) == problem
    codes = stored(problem).encode(labels)
    assert codes.dtype == np.int64
    decoded = stored(problem).decode(codes, labels.index)
    if labels.dtype == ORDERED:  # unused categories are dropped
        labels = labels.cat.remove_unused_categories()
    pd.testing.assert_series_equal(decoded, labels, check_index_type=False)
    assert problem.decode(codes[:0], labels.index[:0]).dtype == labels.dtype


def test_a_dtype_that_has_no_name_comes_back_as_objects():
    labels = Series(list("abca"), dtype=pd.ArrowDtype(pa.dictionary(pa.int32(), pa.string())))
    problem = stored(infer_problem(labels, "label"))
    assert problem.decode(problem.encode(labels), labels.index).tolist() == list("abca")


@pytest.mark.parametrize(
    "labels",
    [
        Series([1.5, 2.5, 3.5]),
        Series([1.5, 2.5, 3.5], dtype="Float64"),
        Series([1.5, 2.5, 3.5], dtype=object),
        Series(range(21)),
        Series(range(21), dtype="Int64"),
        Series(range(21), dtype=object),
        Series([10_000_000.0, 10_000_001.0, 10_000_002.0]),  # float32 cannot tell them apart unless the mean is subtracted
    ],
)
def test_regression_is_standardised_and_comes_back(labels):
    problem = stored(infer_problem(labels, "label"))
    assert (problem.problem_type, problem.class_labels, problem.num_outputs) == ("regression", (), 1)
    target = problem.encode(labels)
    assert target.dtype == np.float64 and target.tolist() == labels.astype(float).tolist()
    learned = problem.standardise(target)
    assert learned.dtype == np.float32
    assert learned.mean() == pytest.approx(0, abs=1e-6)
    assert learned.std() == pytest.approx(1, abs=1e-6)
    decoded = problem.decode(learned.astype(np.float64) * problem.sd + problem.mean, labels.index)
    assert (decoded.dtype, decoded.name) == (labels.dtype if str(labels.dtype) == "Float64" else np.float64, "label")
    assert np.allclose(decoded, labels.astype(float), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "labels",
    [Series(["1.5", "2"]), Series([0, 1]), Series([True, False]), Series([1, 2], dtype="category"), Series([1, 2], dtype="Int64")],
    ids=str,
)
def test_regression_on_request(labels):
    problem = infer_problem(labels, "label", "regression")
    assert problem.problem_type == "regression"
    assert problem.standardise(problem.encode(labels)).tolist() in ([-1, 1], [1, -1])


def test_rows_of_no_weight_have_no_say_in_the_scale():
    labels = Series([1.0, 3.0, 1e6])
    problem = infer_problem(labels, "label").scaled_to(labels, np.array([1.0, 1.0, 0.0]))
    assert (problem.mean, problem.sd) == pytest.approx((2, 1))
    classes = infer_problem(Series(list("ab")), "label")
    assert classes.scaled_to(Series(list("ab")), None) is classes


def test_classes_on_request():
    assert infer_problem(Series(list(range(30)) * 3), "label", "multiclass").num_outputs == 30
    assert infer_problem(Series([0.5, 1.5, 2.5] * 4), "label", "multiclass").class_labels == (0.5, 1.5, 2.5)


@pytest.mark.parametrize(
    "labels, rows",
    [
        (Series(["a", None, "b", np.nan], index=[5, 6, 7, 8]), "2 of 4 labels .* rows 6, 8"),
        (Series(["a", pd.NA, "b"], dtype="string"), "1 of 3 labels .* rows 1"),
        (Series([1, None, 2], dtype="Int64"), "1 of 3 .* rows 1"),
        (Series([True, None], dtype="boolean"), "1 of 2 .* rows 1"),
        (Series([1.5, None, np.inf], dtype="Float64"), "2 of 3 .* rows 1, 2"),
        (Series([1.5, np.inf, -np.inf, np.nan]), "3 of 4 .* rows 1, 2, 3"),
        (Series([1.5, np.inf, 2], dtype=object), "1 of 3 .* rows 1"),
        (Series(["a", None, "b"], dtype="category"), "1 of 3 .* rows 1"),
        (Series([None] * 9, index=["r"] * 9), "9 of 9 .* rows 'r', 'r', 'r', 'r', 'r'. Drop"),
    ],
)
def test_missing_and_infinite_labels(labels, rows):
    for call in (infer_problem, lambda labels, label: Problem(label, "binary", ("a", "b")).encode(labels)):
        with pytest.raises(InvalidData, match=f"label column 'y': {rows}"):
            call(labels, "y")


@pytest.mark.parametrize(
    "value",
    [b"x", [1], (1,), {"a": 1}, datetime.date(2020, 1, 1), pd.Timestamp(2020, 1, 1), decimal.Decimal("1.5"), 1j, pd.Interval(0, 1), np.zeros(2)],
    ids=lambda value: type(value).__name__,
)
def test_labels_of_a_kind_that_json_cannot_keep(value):
    labels = Series(["a", value, "b"], dtype=object)
    for call in (infer_problem, lambda labels, label: Problem(label, "binary", ("a", "b")).encode(labels)):
        with pytest.raises(
            InvalidData, match=rf"label column 'y': expected strings, numbers or booleans, got {type(value).__name__} .* in row 1\. .*astype\(str\)"
        ):
            call(labels, "y")


LISTS = pd.ArrowDtype(pa.list_(pa.int64()))


@pytest.mark.parametrize(
    "labels",
    [pd.cut(Series(range(9)), 3), Series(pd.date_range("2020", periods=3)), Series(pd.to_timedelta([1, 2, 3])), Series([[1], [2], [1]], dtype=LISTS)],
    ids=["intervals", "dates", "times", "lists"],
)
@pytest.mark.parametrize("problem_type", [None, "regression"])
def test_dtypes_that_are_no_labels(labels, problem_type):
    with pytest.raises(InvalidData, match="expected strings, numbers or booleans"):
        infer_problem(labels, "y", problem_type)


@pytest.mark.parametrize(
    "labels, problem_type, message",
    [
        (Series(["a", "a"]), None, "at least 2 different values, got only 'a' in 2 rows"),
        (Series([1.5, 1.5]), "regression", "got only 1.5 in 2 rows"),
        (Series(["a"] * 3, dtype=pd.CategoricalDtype(["a", "b"])), None, "got only 'a' in 3 rows"),
        (Series([], dtype=object), None, "got none in 0 rows"),
        (Series(list("abc")), "binary", "'binary' expects 2 classes, got 3"),
        (Series([1.5, 2.5, 3.5]), "multiclass", "3 different numbers in 3 rows; a regression"),
        (Series(["1", "two", "3"], index=list("xyz")), "regression", "a regression needs numbers; row 'y' has 'two'"),
        (Series([1, 10**400, 3], index=list("xyz")), "regression", "a regression needs numbers; row 'y' has 1000"),
        (Series(["low", "high"], dtype=ORDERED), "regression", "a regression needs numbers; row 0 has 'low'"),
    ],
)
def test_labels_that_do_not_fit(labels, problem_type, message):
    with pytest.raises(InvalidData, match=f"label column 'y': .*{message}"):
        infer_problem(labels, "y", problem_type)


@pytest.mark.parametrize("spoiled", [[], ["n/a"]])
def test_numbers_written_as_texts_are_not_taken_for_classes_unasked(spoiled):
    labels = Series([f"{number / 3:.2f}" for number in range(190)] + spoiled)
    with pytest.raises(InvalidData, match=r"190 of 19\d labels are numbers, written as texts" + (", but not 'n/a'" if spoiled else r"\.")):
        infer_problem(labels, "y")
    assert infer_problem(labels, "y", "multiclass").num_outputs == 190 + len(spoiled)
    assert infer_problem(Series([str(number % 30) for number in range(600)]), "y").num_outputs == 30  # every class has many rows


@pytest.mark.parametrize("dtype", [object, "str", "string", "category"])
def test_unseen_classes_are_named_with_counts_and_the_first_row(dtype):
    problem = infer_problem(Series(list("abc")), "y")
    labels = Series(["a", "z", "q", "z"], index=[5, 6, 6, 7], dtype=dtype)
    with pytest.raises(InvalidData, match=r"do not have: 'z' \(2 rows\), 'q' \(1 rows\); first in row 6\. Expected 'a', 'b', 'c'\."):
        problem.encode(labels)


def test_a_number_is_not_the_string_of_it():
    with pytest.raises(InvalidData, match=r"1 \(1 rows\).* Expected '0', '1'\."):
        infer_problem(Series(["0", "1"]), "y").encode(Series([1]))


@pytest.mark.parametrize(
    "labels",
    [Series([0.0, 1.0]), Series([False, True]), Series([0, 1], dtype="Int64"), Series([0, 1], dtype="category"), Series([0, 1], dtype=object)],
    ids=lambda labels: str(labels.dtype),
)
def test_equal_values_of_another_dtype_are_the_same_class(labels):
    assert infer_problem(Series([1, 0, 1]), "y").encode(labels).tolist() == [0, 1]


@pytest.mark.parametrize("dtype", [object, "str", "float64", "category"])
def test_no_rows_encode_to_none(dtype):
    for problem in (infer_problem(Series(list("ab")), "y"), infer_problem(Series([0.5, 1, 2]), "y")):
        assert len(problem.encode(Series([], dtype=dtype))) == 0


def test_categories_that_only_some_rows_have_are_classes_all_the_same():
    problem = infer_problem(Series(["low", "mid", "high"], dtype=ORDERED), "y")
    decoded = problem.decode(np.array([2, 2]), pd.RangeIndex(2))
    assert list(decoded.cat.categories) == ["low", "mid", "high"]
    assert decoded.cat.ordered
    assert problem.encode(Series(["high"])).tolist() == [2]


@pytest.mark.parametrize("dtype", ["float64", "float32", "Float64", "double[pyarrow]", "int64", "Int64"])
def test_a_regressions_predictions_have_the_labels_dtype_where_that_has_fractions(dtype):
    labels = Series(range(100), dtype=dtype, name="y")
    problem = stored(infer_problem(labels, "y", "regression"))
    decoded = problem.decode(np.array([1.5, 2.5]), pd.Index([7, 8]))
    assert str(decoded.dtype) == ("float64" if "int" in dtype.lower() else dtype)
    assert decoded.tolist() == [1.5, 2.5]


def test_sample_weights():
    assert encode_weights(Series([1, 0, 2.5], name="w")).tolist() == [1, 0, 2.5]
    assert encode_weights(Series(["1", "2"], dtype="string", name="w")).tolist() == [1, 2]
    with pytest.raises(InvalidData, match=r"sample_weight column 'w': expected finite numbers >= 0; 4 of 5 are not: row 1: -1.*row 4: 'x'"):
        encode_weights(Series([1, -1, None, np.inf, "x"], name="w", dtype=object))
    with pytest.raises(InvalidData, match="all 2 weights are 0"):
        encode_weights(Series([0, 0], name="w"))
    assert encode_weights(Series([0, 0], name="w"), may_be_zero=True).tolist() == [0, 0]


def test_the_positive_class_may_be_the_first():
    labels = Series(["changed", "same", "changed"])
    problem = infer_problem(labels, "y")
    assert problem.positive_class == "same"
    turned = stored(problem.with_positive("changed"))
    assert turned.positive_class == "changed"
    assert turned.encode(labels).tolist() == [1, 0, 1]
    assert turned.decode(np.array([1, 0]), pd.RangeIndex(2)).tolist() == ["changed", "same"]
    assert problem.with_positive("same") is problem
    with pytest.raises(InvalidHyperparameter, match=r"data\.pos_label: expected 'changed' or 'same', got 'chnaged'"):
        problem.with_positive("chnaged")
    with pytest.raises(InvalidHyperparameter, match="this one is multiclass"):
        infer_problem(Series(list("abc")), "y").with_positive("a")


def test_categories_keep_their_order_whichever_is_positive():
    labels = Series(["low", "high"], dtype=pd.CategoricalDtype(["low", "high"], ordered=True))
    problem = infer_problem(labels, "y").with_positive("low")
    pd.testing.assert_series_equal(problem.decode(problem.encode(labels), labels.index), labels, check_names=False)


def test_numbers_may_be_scaled_to_0_and_1_or_left():
    labels = Series([10.0, 20.0, 30.0, 500.0])
    problem = infer_problem(labels, "y")
    minmax = problem.scaled_to(labels, np.array([1.0, 1.0, 1.0, 0.0]), "minmaxscaler")
    assert minmax.standardise(labels.to_numpy())[:3].tolist() == [0, 0.5, 1]
    assert problem.scaled_to(labels, None, None).standardise(labels.to_numpy()).tolist() == labels.tolist()


def test_names_that_are_not_utf8_may_be_classes():
    labels = Series(["a\udcff", "b", "a\udcff", "b"], dtype=object, name="y")
    problem = infer_problem(labels, "y")
    assert problem.class_labels == ("a\udcff", "b")
    assert problem.encode(labels).tolist() == [0, 1, 0, 1]


def test_labels_of_another_type_are_said_to_be():
    """Reading a CSV turns the texts '0' and '1' into numbers."""
    problem = infer_problem(pd.Series(["0", "1"] * 5), "y")
    with pytest.raises(InvalidData, match=r"They are of another type: 0 is a number here and was a text in training; convert the column"):
        problem.encode(pd.Series([0, 1], name="y"))
    with pytest.raises(InvalidData, match="Drop these rows"):
        problem.encode(pd.Series(["0", "2"], name="y"))
    with pytest.raises(InvalidData, match=r"map\(lambda one: one.mid\) numbers"):
        infer_problem(pd.Series(pd.cut([1.0, 2.0, 3.0], 2)), "y")
