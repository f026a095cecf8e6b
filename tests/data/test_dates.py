"""Dates become calendar features that a network can read; dates close in time have close values."""

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
    assert features["when: month sin"] == pytest.approx(1)  # April is a quarter of a year after January
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


def test_dates_of_arrow_and_periods_are_dates():
    expected = to_dates(column(pd.to_datetime(["2024-01-01", None, "2024-03-01"])))
    for values in (
        expected.tz_localize(None).to_series().astype("timestamp[us][pyarrow]"),
        expected.tz_convert("Asia/Tokyo").to_series().astype("timestamp[us, tz=Asia/Tokyo][pyarrow]"),
        expected.tz_localize(None).to_series().astype("timestamp[us][pyarrow]").astype("date32[pyarrow]"),
        column(pd.PeriodIndex(["2024-01", None, "2024-03"], freq="M")),
        column([pd.Period("2024Q1"), None, np.datetime64("2024-03-01")], dtype=object),
    ):
        found = to_dates(values)
        assert str(found.tz) == "UTC"
        assert found.equals(expected)
        assert fit_dates(values, "standard").transform(values).shape[0] == 3


@pytest.mark.parametrize("values", [[20240131, 20240229], [20240131.0, None], ["20240131", 20240229]])
def test_numbers_are_read_like_the_text_they_would_be(values):
    """Without pandas' warnings about how it will read numbers in future."""
    assert to_dates(column(values, dtype=object))[0] == pd.Timestamp("2024-01-31", tz="UTC")


@pytest.mark.parametrize("value", [1, 1.5, float("inf"), True, 1j, "\udc80", 10**400, datetime.time(1)], ids=lambda value: type(value).__name__)
def test_what_is_no_date_is_refused_by_name(value):
    with pytest.raises(InvalidData, match=r"'when': expected dates.*1 of 2 values are not: row 1"):
        to_dates(column([pd.Timestamp("2024-01-01"), value], dtype=object))


NAIVE = ["2024-05-31 14:00", "2024-06-30 15:00"]
ZONED = {
    "datetimes": pd.Series(pd.to_datetime(NAIVE)).dt.tz_localize("America/New_York"),
    "arrow": pd.Series(pd.to_datetime(NAIVE)).dt.tz_localize("UTC").astype("timestamp[us, tz=UTC][pyarrow]"),
    "texts": pd.Series(["2024-05-31 14:00Z", "2024-06-30T15:00:30.5+02:00"]),
    "objects": pd.Series([pd.Timestamp("2024-05-31 14:00", tz="Asia/Tokyo"), pd.Timestamp("2024-06-30", tz="UTC")], dtype=object),
}
UNZONED = {
    "datetimes": pd.Series(pd.to_datetime(NAIVE)),
    "arrow": pd.Series(pd.to_datetime(NAIVE)).astype("timestamp[us][pyarrow]"),
    "texts": pd.Series(NAIVE),
    "days": pd.Series(["2024-05-31", "2024-06-30"]),
}


@pytest.mark.parametrize("given", ZONED)
@pytest.mark.parametrize("others", UNZONED)
def test_dates_with_a_time_zone_are_not_those_without(given, others):
    """Their hours would differ, and nobody would notice."""
    zoned, unzoned = ZONED[given].rename("when"), UNZONED[others].rename("when")
    for training, later, words in ((zoned, unzoned, "with a time zone"), (unzoned, zoned, "without a time zone")):
        encoder = fit_dates(training, "quantile")
        encoder = type(encoder).from_json(json.loads(json.dumps(encoder.to_json())))
        assert encoder.transform(training).shape == encoder.transform(training.iloc[:1].reindex([0, 1])).shape
        with pytest.raises(InvalidData, match=rf"'when': expected dates {words}, as in training; .*2 of 2"):
            encoder.transform(later)


def test_where_training_had_dates_of_both_kinds_both_are_taken():
    encoder = fit_dates(pd.Series(["2024-05-31 14:00Z", "2024-06-30 15:00"], name="when"), "quantile")
    assert encoder.has_zone is None
    for later in (*ZONED.values(), *UNZONED.values()):
        encoder.transform(later.rename("when"))
