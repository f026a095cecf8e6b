"""Numbers are scaled to about N(0, 1); missing ones become 0 and are flagged."""

import datetime
import decimal
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.preprocessing import QuantileTransformer

from automm_hpo.data.numerical import NumberEncoder, fit_numbers, fit_scaler, to_floats
from automm_hpo.errors import InvalidData

SCALINGS = ["quantile", "standard", "robust"]
RNG = np.random.default_rng(0)


def column(values, name="x", **options) -> pd.Series:
    return pd.Series(values, name=name, **options)


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("values", [RNG.normal(5, 3, 2_000), RNG.lognormal(0, 1, 2_000), RNG.integers(0, 4, 2_000), RNG.normal(1e299, 1e298, 2_000)])
def test_scaled_values_are_centred_and_keep_their_order(scaling, values):
    scaled = fit_numbers(column(values), scaling).transform(column(values))[:, 0]
    assert scaled.dtype == np.float32
    assert np.isfinite(scaled).all()
    assert abs(np.median(scaled)) < 1
    assert 0.3 < scaled.std() < 3
    assert (np.diff(scaled[np.argsort(values, kind="stable")]) >= -1e-6).all()


def test_quantiles_agree_with_scikit_learn_but_at_the_ends():
    values = np.random.default_rng(1).lognormal(0, 2, 3_000)
    theirs = QuantileTransformer(n_quantiles=100, output_distribution="normal", subsample=None).fit_transform(values[:, None])[:, 0]
    ours = fit_scaler(values, "quantile").transform(values)
    inner = np.abs(theirs) < 2.5
    assert inner.mean() > 0.98
    np.testing.assert_allclose(ours[inner], theirs[inner], atol=1e-6)
    assert np.abs(ours).max() == pytest.approx(2.5758, abs=1e-3)  # N(0, 1) at 0.995, half of one of 100 quantiles from the end


def test_half_of_all_values_at_the_smallest_are_no_outliers():
    values = np.concatenate([np.zeros(500), np.random.default_rng(0).exponential(size=500)])
    scaled = fit_scaler(values, "quantile").transform(values)
    assert scaled[:500].max() == scaled[:500].min() == pytest.approx(-0.7, abs=0.05)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_values_beyond_those_of_training_stay_small(scaling):
    encoder = fit_numbers(column(RNG.normal(size=100)), scaling)
    far = encoder.transform(column([1e299, -1e299]))
    assert far[0, 0] > 1.5 > -1.5 > far[1, 0]
    assert np.abs(far).max() <= 1e4


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("values", [[7.0] * 30, [np.nan, 3.0], [np.nan] * 3, [0.0] * 29 + [1.0]])
def test_constant_and_nearly_empty_columns(scaling, values):
    assert np.isfinite(fit_numbers(column(values), scaling).transform(column([*values, 5.0, np.nan]))).all()


def test_missing_values_have_an_indicator_where_training_had_some():
    with_gap = fit_numbers(column([1.0, None, 3.0]), "standard")
    assert with_gap.names == ("x", "x: missing")
    assert with_gap.transform(column([2.0, np.nan])).tolist() == [[0, 0], [0, 1]]
    whole = fit_numbers(column([1.0, 3.0]), "standard")
    assert whole.names == ("x",)
    assert whole.transform(column([np.nan])).tolist() == [[0]]


@pytest.mark.parametrize(
    "values",
    [
        column([1, 2, None], dtype="Int64"),
        column([1.0, 2.0, None], dtype="Float32"),
        column([1, 2, None], dtype="int64[pyarrow]"),
        column(["1", "2.0", None], dtype="str"),
        column(["1", " 2 ", pd.NA], dtype="string[pyarrow]"),
        column(["1", "2", ""], dtype=object),
        column([decimal.Decimal(1), 2, None], dtype=object),
        column([decimal.Decimal(1), 2, None], dtype=pd.ArrowDtype(pa.decimal128(10, 2))),
        column([np.float32(1), "2", float("nan")], dtype=object),
        column(pd.to_timedelta([1, 2, None], unit="s")),
        column([1, 2, None], dtype="category"),
    ],
    ids=lambda values: str(values.dtype),
)
def test_numbers_of_any_dtype(values):
    np.testing.assert_array_equal(to_floats(values), [1, 2, np.nan])


def test_booleans_are_0_and_1():
    np.testing.assert_array_equal(to_floats(column([True, None, False], dtype="boolean")), [1, np.nan, 0])


FINITE, NUMBERS = "expected finite numbers", "expected numbers"


@pytest.mark.parametrize("bad, words", [(np.inf, FINITE), (-1e308, FINITE), ("1e999", "expected (finite )?numbers"), ("ten", NUMBERS), ([1], NUMBERS)])
def test_what_is_no_finite_number_is_refused_by_row_at_fit_and_after(bad, words):
    values = column([1.0, bad, 3.0, bad], dtype=object, index=["a", "b", "c", "d"])
    encoder = fit_numbers(column([1.0, 2.0]), "quantile")
    for act in (lambda: fit_numbers(values, "quantile"), lambda: encoder.transform(values)):
        with pytest.raises(InvalidData, match=rf"column 'x': {words}.*2 of 4.*row 'b'.*row 'd'"):
            act()


@pytest.mark.parametrize("scaling", SCALINGS)
def test_json_round_trip_is_exact(scaling):
    encoder = fit_numbers(column([*RNG.normal(size=500), np.nan], name=5), scaling)
    read = NumberEncoder.from_json(json.loads(json.dumps(encoder.to_json())))
    assert read == encoder
    test = column(RNG.normal(size=50), name=5)
    assert (read.transform(test) == encoder.transform(test)).all()


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("dtype", [object, "str", "Int64", "float64", "timedelta64[ns]"])
def test_no_rows_of_any_dtype_give_no_rows(scaling, dtype):
    encoder = fit_numbers(column([1.0, 2.0, None]), scaling)
    assert encoder.transform(column([], dtype=dtype)).shape == (0, 2)


@pytest.mark.parametrize(
    "values",
    [
        column([datetime.timedelta(hours=1), None, pd.Timedelta("90min")], dtype=object),
        column([np.timedelta64(60, "m"), None, np.timedelta64(90, "m")], dtype=object),
        column(pd.to_timedelta(["1h", None, "90min"])).astype("duration[us][pyarrow]"),
        column([datetime.time(1), None, datetime.time(1, 30)], dtype=object),
    ],
)
def test_durations_are_seconds_whatever_holds_them(values):
    assert to_floats(values) == pytest.approx([3_600, np.nan, 5_400], nan_ok=True)


@pytest.mark.parametrize("values", [[1.0, 10**400], [10**400] * 2, ["1", -(10**400)]])
def test_a_whole_number_that_no_float_holds_counts_as_infinite(values):
    with pytest.raises(InvalidData, match=r"'x': expected finite numbers of at most 1e\+300; clip them.* row 1: -?1000") as caught:
        to_floats(column(values, dtype=object))
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("dtype", [complex, object])
def test_complex_numbers_are_refused(dtype):
    with pytest.raises(InvalidData, match="'x': expected numbers; 2 of 2"):
        to_floats(column([1j, 2 + 1j], dtype=dtype))
