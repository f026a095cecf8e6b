"""Which columns a predictor needs."""

import numpy as np
import pandas as pd
import pytest

from automm_hpo import MultiModalPredictor
from automm_hpo.errors import InvalidArgument, InvalidData


def make_rows(num_rows, seed):
    rng = np.random.default_rng(seed)
    rows = pd.DataFrame({"weight": rng.normal(size=num_rows), "noise": rng.normal(size=num_rows), "town": rng.choice(["Gent", "Lille", None], num_rows)})
    rows["day"] = pd.Timestamp("2026-01-01") + pd.to_timedelta(rng.integers(0, 300, num_rows), "D")
    return rows.assign(label=np.where(2 * rows["weight"] + 1.5 * (rows["town"] == "Gent") + rng.normal(size=num_rows) > 0.5, "yes", "no"))


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    own = {"model.real_mlp.hidden_size": 32, "optim.max_epochs": 15, "env.batch_size": 64}
    folder = tmp_path_factory.mktemp("fitted") / "predictor"
    return MultiModalPredictor("label", verbosity=0).fit(make_rows(400, 0), hyperparameters=own, save_path=folder, tracking=None)


def test_columns_that_count_come_first(fitted):
    rows = make_rows(500, 1)
    before = rows.copy()
    found = fitted.feature_importance(rows)
    assert found.index.tolist()[:2] == ["weight", "town"]
    assert found.index.name == "column"
    assert sorted(found.index) == ["day", "noise", "town", "weight"]
    assert found["importance"]["weight"] > 0.15 > found["importance"]["town"] > 0.02
    assert found["importance"][["noise", "day"]].abs().max() < 0.02
    assert (found["stddev"] > 0).all()
    pd.testing.assert_frame_equal(rows, before)
    pd.testing.assert_frame_equal(found, fitted.feature_importance(rows.assign(more=1)[["more", *rows.columns[::-1]]]).loc[found.index], atol=0.03)


def test_it_is_of_the_metric_that_is_asked_for_higher_is_better(fitted):
    rows = make_rows(300, 1)
    assert fitted.feature_importance(rows, metric="log_loss", num_shuffle_sets=1)["importance"]["weight"] > 0.1
    few = fitted.feature_importance(rows, subsample_size=100, num_shuffle_sets=2, seed=3)
    assert few.equals(fitted.feature_importance(rows, subsample_size=100, num_shuffle_sets=2, seed=3))
    assert not few.equals(fitted.feature_importance(rows, subsample_size=100, num_shuffle_sets=2, seed=4))


def test_what_is_refused(fitted):
    rows = make_rows(50, 1)
    for name, wrong in (("subsample_size", 0), ("num_shuffle_sets", 0), ("seed", -1), ("num_shuffle_sets", 1.5)):
        with pytest.raises(InvalidArgument, match=f"{name}: expected an integer"):
            fitted.feature_importance(rows, **{name: wrong})
    with pytest.raises(InvalidArgument, match="metric: rmse does not fit a binary problem"):
        fitted.feature_importance(rows, metric="rmse")
    with pytest.raises(InvalidArgument, match=r"roc_auc has no value on these .* rows: all have the same label, 'no'"):
        fitted.feature_importance(rows[rows["label"] == "no"])
    with pytest.raises(InvalidData, match="has no label column"):
        fitted.feature_importance(rows.drop(columns="label"))
    with pytest.raises(InvalidData, match="no rows to evaluate"):
        fitted.feature_importance(rows[:0])
