"""Dates become calendar features that a network can read; neighbours in time are neighbours in value."""

import datetime
import json

import numpy as np
import pandas as pd
import pytest

from automm_hpo.data.dates import DateEncoder, fit_dates, to_dates
from automm_hpo.errors import InvalidData


def column(values, **options) -> pd.Series:
    return pd.Series(values, name="when", **options)


HOURS = column(pd.date_range("2023-11-01", periods=2_000, freq="7h"))


def test_the_parts_that_vary_are_there():
    assert fit_dates(HOURS, "standard").names == (
        "when: year", "when: elapsed", "when: month sin", "when: month cos", "when: day sin", "when: day cos",
        "when: weekday sin", "when: weekday cos", "when: hour sin", "when: hour cos",
    )  # fmt: skip
    days = fit_dates(column(pd.to_datetime(["2024-01-01", None, "2024-01-08"])), "standard")
    assert days.names == ("when: elapsed", "when: day sin", "when: day cos", "when: missing")


def test_values():
    encoder = fit_dates(HOURS, "standard")
    features = dict(zip(encoder.names, encoder.transform(column([pd.Timestamp("2024-04-01 06:00")]))[0], strict=True))
    assert features["when: month sin"] == pytest.approx(1)  # April is a quarter of the year from January
    assert features["when: hour sin"] == pytest.approx(1)
    assert (features["when: weekday sin"], features["when: weekday cos"]) == pytest.approx((0, 1))  # a Monday
    elapsed = encoder.transform(HOURS)[:, 1]
    assert abs(elapsed.mean()) < 1e-3
    assert elapsed.std() == pytest.approx(1, abs=1e-3)
    assert (np.diff(elapsed) > 0).all()


def test_december_is_near_january():
    encoder = fit_dates(HOURS, "standard")
    month = [encoder.names.index(f"when: month {wave}") for wave in ("sin", "cos")]
    december, january, july = encoder.transform(column(pd.to_datetime(["2023-12-10", "2024-01-10", "2024-07-10"])))[:, month]
    assert np.linalg.norm(december - january) < 0.6 < np.linalg.norm(july - january)


def test_a_missing_date_is_in_the_middle_and_said_so():
    encoder = fit_dates(column([*HOURS[:50], pd.NaT]), "quantile")
    assert encoder.transform(column([pd.NaT])).tolist() == [[0.0] * (len(encoder.names) - 1) + [1.0]]


@pytest.mark.parametrize(
    "values",
    [
        column(["2024-05-31T18:00:00", None]),
        column(["2024-05-31 18:00", ""], dtype=object).replace("", None),
        column([datetime.datetime(2024, 5, 31, 18), None], dtype=object),
        column(["2024-05-31T20:00:00+02:00", None], dtype="string[pyarrow]"),
        column(pd.to_datetime(["2024-05-31 18:00", None])),
        column(pd.to_datetime(["2024-05-31 14:00", None])).dt.tz_localize("America/New_York"),
        column([pd.Timestamp("2024-05-31 18:00"), None], dtype="timestamp[us][pyarrow]"),
    ],
)
def test_dates_of_any_dtype(values):
    assert list(to_dates(values)) == [pd.Timestamp("2024-05-31 18:00", tz="UTC"), pd.NaT]


def test_days_are_dates():
    assert to_dates(column([datetime.date(2024, 5, 31), "2024-06-01"], dtype=object)).day.tolist() == [31, 1]


def test_what_is_no_date_is_refused_by_row():
    with pytest.raises(InvalidData, match=r"column 'when': expected dates.*2 of 3.*row 1: '31.5.2024'.*row 2: 'soon'"):
        fit_dates(column(["2024-05-31", "31.5.2024", "soon"]), "quantile")


def test_json_round_trip_is_exact():
    encoder = fit_dates(HOURS, "quantile")
    read = DateEncoder.from_json(json.loads(json.dumps(encoder.to_json())))
    assert read == encoder
    assert (read.transform(HOURS) == encoder.transform(HOURS)).all()
