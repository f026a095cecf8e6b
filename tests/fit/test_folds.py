"""Folds: every network leaves some rows out, and a row is validated by the networks that have not learned from it."""

import numpy as np
import pandas as pd
import pytest
import torch
from ray import tune

from automm_hpo import MultiModalPredictor
from automm_hpo.config import Config
from automm_hpo.data.features import Features
from automm_hpo.data.split import assign_folds
from automm_hpo.errors import InvalidHyperparameter, InvalidInput, SearchMismatch
from automm_hpo.fit.call import FitCall, plan_fit
from automm_hpo.fit.plan import Target
from automm_hpo.models import build_model
from automm_hpo.problem import infer_problem
from automm_hpo.training.losses import build_loss

SMALL = {"model.real_mlp.hidden_size": 16, "optim.max_epochs": 3}


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.normal(size=120), "b": rng.normal(size=120), "c": rng.choice(["x", "y", "z"], 120)})
    return frame.assign(label=np.where(frame["a"] + (frame["c"] == "x") > 0.3, "yes", "no"))


def plan(table, tuning_data=None, **call):
    return plan_fit(FitCall(**call), Target("label", None, None, None), (), table, tuning_data)


def folds_of(data):
    return 0 if data.train.fold is None else data.train.fold.shape[1]


# --------------------------------------------------------------------------------------------------------------- the rows


@pytest.mark.parametrize("labels", [["a"] * 50 + ["b"] * 9 + ["c"], [*np.linspace(0, 1, 61)]])
def test_every_row_is_in_one_fold_and_every_fold_has_its_share_of_each_class(labels):
    rows = pd.DataFrame({"label": labels})
    problem = infer_problem(rows["label"], "label")
    fold = assign_folds(rows, problem, 4, seed=0)
    assert (fold.sum(1) == 1).all()
    for label in set(labels) if problem.is_classification else [None]:
        counts = fold[rows["label"] == label].sum(0) if problem.is_classification else fold.sum(0)
        assert counts.max() - counts.min() <= 1
    assert (fold == assign_folds(rows, problem, 4, seed=0)).all()
    assert (fold != assign_folds(rows, problem, 4, seed=1)).any()


def test_all_rows_are_learned_from_and_validated(table):
    data = plan(table).data
    assert data.train is data.valid
    assert (folds_of(data), len(data.train.table)) == (4, 120)


# ----------------------------------------------------------------------------------------------------------- the networks


def folded(make_batch, num_members, num_folds):
    """A model, and a batch whose row r is in fold r modulo ``num_folds``."""
    own = {"model.real_mlp.num_members": num_members, "model.real_mlp.dropout": 0.0, "model.real_mlp.one_hot_limit": 4}
    config = Config.from_flat({"model.names": ["real_mlp"], "data.num_folds": num_folds, **own})
    batch = make_batch(12)
    object.__setattr__(batch, "fold", torch.eye(num_folds, dtype=torch.bool)[torch.arange(12) % num_folds])
    return build_model(config, Features(numeric=("a", "b", "c"), cardinalities=(3, 6, 30)), 3), batch


@pytest.mark.parametrize(("num_members", "num_folds"), [(4, 4), (4, 2), (8, 4)])
def test_a_row_is_predicted_by_the_networks_that_leave_it_out(make_batch, num_members, num_folds):
    model, batch = folded(make_batch, num_members, num_folds)
    members = torch.stack([logits for logits, _ in model.training_logits(batch)])  # (members, B, K)
    for row, logits in enumerate(model(batch)):
        mine = [member for member in range(num_members) if member % num_folds == row % num_folds]
        assert torch.allclose(logits, members[mine, row].mean(0), atol=1e-5)


@pytest.mark.parametrize(("num_members", "num_folds"), [(4, 4), (4, 2)])
def test_a_network_does_not_learn_from_the_rows_that_it_leaves_out(make_batch, classes, num_members, num_folds):
    model, batch = folded(make_batch, num_members, num_folds)
    shares = torch.stack([share for _, share in model.training_logits(batch)])  # (members, B)
    for member in range(num_members):
        assert (shares[member] == 0).tolist() == [row % num_folds == member % num_folds for row in range(12)]
    assert shares.sum() == pytest.approx(12)  # the loss is as large as without folds, so the learning rate is right for both
    outer = [logits.detach().requires_grad_() for logits, _ in model.training_logits(batch)]
    build_loss(Config().optim, classes)(list(zip(outer, shares, strict=True)), batch).backward()
    for member, logits in enumerate(outer):
        assert (logits.grad.abs().sum(1) == 0).tolist() == [row % num_folds == member % num_folds for row in range(12)]


@pytest.mark.parametrize(("num_members", "num_folds"), [(4, 4), (4, 2)])
def test_labels_do_not_reach_the_networks_that_leave_them_out(make_batch, num_members, num_folds, classes):
    """Only the bias of the outputs belongs to all networks: it learns how frequent the classes are, which is the same in all folds."""

    def trained(label):
        torch.manual_seed(0)
        model, batch = folded(make_batch, num_members, num_folds)
        model.head.bias.requires_grad_(False)
        batch.target[::num_folds] = label  # the first fold
        optimizer, loss = torch.optim.SGD(model.parameters(), lr=0.1), build_loss(Config().optim, classes)
        for _ in range(5):
            loss(model.training_logits(batch), batch).backward()
            optimizer.step()
            optimizer.zero_grad()
        return model(batch).detach()

    one, other = trained(0), trained(2)
    assert torch.allclose(one[::num_folds], other[::num_folds], atol=1e-6)
    assert (one[1::num_folds] - other[1::num_folds]).abs().amax(1).min() > 1e-2


def test_judged_logits_are_not_rounded(make_batch):
    """Two rows whose logits differ a little must not be equal to the metric."""
    model, batch = folded(make_batch, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model.eval()(batch)
    assert logits.dtype == torch.float32
    assert (logits.bfloat16().float() != logits).any()


def test_weights_of_embeddings_in_common_are_every_members(make_batch):
    model, batch = folded(make_batch, 4, 4)
    prefix, stored = "backbones.real_mlp.", {}
    for name, value in model.state_dict().items():
        own = name.removeprefix(prefix)
        if own.startswith("numbers."):
            value = value[0]
        elif own.endswith("vectors.weight"):
            name, value = name.replace("vectors.", ""), value[:, : value.shape[1] // 4]
        stored[name] = value
    assert any(name.endswith("categories.2.weight") for name in stored)
    model.load_state_dict(stored)
    backbone = model.backbones["real_mlp"]
    assert all(torch.equal(backbone.numbers.phase[0], phase) for phase in backbone.numbers.phase)
    assert all(torch.equal(vectors, backbone.categories[2](batch.categorical[:, 2])[0]) for vectors in backbone.categories[2](batch.categorical[:, 2]))


@pytest.fixture
def classes():
    return infer_problem(pd.Series(["a", "b", "c"] * 4), "label")


@pytest.mark.parametrize("kind", ["numbers", "categories"])
def test_the_score_of_noise_is_that_of_guessing(here, kind):
    """The networks know the rows they learned from by heart. Had one of them validated such rows, the score would be near 1."""
    rng = np.random.default_rng(0)
    numbers = pd.DataFrame(rng.normal(size=(200, 10))).add_prefix("column_")
    pairs = pd.DataFrame({name: [f"category {place}" for place in rng.permutation(200) % 100] for name in "ab"})
    noise = (numbers if kind == "numbers" else pairs).assign(label=np.tile(["yes", "no"], 100))
    types = {} if kind == "numbers" else dict.fromkeys("ab", "categorical")
    predictor = MultiModalPredictor("label", verbosity=0)
    predictor.fit(noise, save_path="run", tracking=None, column_types=types, hyperparameters={"optim.max_epochs": 30, "model.real_mlp.dropout": 0.0})
    assert predictor.fit_summary()["val_roc_auc"] < 0.65
    curve = predictor.search.curves()
    assert curve["metric"].iloc[-10:].mean() < 0.6
    assert curve["train_loss"].iloc[-1] < 0.1


# ---------------------------------------------------------------------------------------------------------------- who has


@pytest.mark.parametrize(
    ("call", "num_folds"),
    [
        ({}, 4),
        ({"presets": "best_quality"}, 4),
        ({"presets": "medium_quality_hpo"}, 4),
        ({"hyperparameters": {"data.num_folds": 0}}, 0),
        ({"hyperparameters": {"data.num_folds": 2, "model.real_mlp.num_members": 2}}, 2),
        ({"hyperparameters": {"model.real_mlp.num_members": 2}}, 0),
        ({"hyperparameters": {"model.real_mlp.num_members": 6}}, 0),
        ({"hyperparameters": {"model.real_mlp.num_members": tune.choice([4, 8])}, "hyperparameter_tune_kwargs": "random"}, 0),
        ({"presets": "medium_quality_hpo", "hyperparameters": {"data.num_folds": 2}}, 2),
        ({"hyperparameters": {"model.names": ["ft_transformer"]}}, 0),
        ({"hyperparameters": {"model.names": ["numerical_mlp", "categorical_mlp", "fusion_mlp"]}}, 0),
        ({"holdout_frac": 0.2}, 0),
    ],
)
def test_plain_tables_are_in_folds_unless_the_call_says_otherwise(table, here, call, num_folds):
    data = plan(table, **call).data
    assert folds_of(data) == num_folds
    assert (data.train is data.valid) == bool(num_folds)


def test_given_rows_validate(table, here):
    data = plan(table, table.head(20)).data
    assert (folds_of(data), len(data.valid.table), len(data.train.table)) == (0, 20, 120)


def test_a_searching_preset_has_the_members_that_folds_need(table, here):
    for given, num_members in (({}, 4), ({"data.num_folds": 0}, 1)):
        assert plan(table, presets="medium_quality_hpo", hyperparameters=given).search.config.model.real_mlp.num_members == num_members


def test_large_tables_hold_rows_out(table, here, monkeypatch):
    monkeypatch.setattr("automm_hpo.fit.search_plan.FOLDED_ROWS", 119)
    assert folds_of(plan(table, hyperparameters=SMALL).data) == 0


@pytest.mark.parametrize(
    ("given", "call", "words"),
    [
        ({"data.num_folds": 1}, {}, "expected 0, or an integer >= 2, got 1"),
        ({"data.num_folds": 5}, {}, "num_members: expected a multiple of data.num_folds, 5, .*, got 4"),
        ({"data.num_folds": 3, "model.real_mlp.num_members": 4}, {}, "num_members: expected a multiple of data.num_folds, 3"),
        ({"data.num_folds": 4}, {"holdout_frac": 0.1}, "expected 0 with holdout_frac"),
        ({"data.num_folds": 4, "model.names": ["ft_transformer"]}, {}, "here are ft_transformer"),
    ],
)
def test_what_cannot_be_folded_is_refused(table, here, given, call, words):
    with pytest.raises((InvalidHyperparameter, InvalidInput), match=words):
        plan(table, hyperparameters=given, **call)


def test_folds_and_given_rows_exclude_each_other(table, here):
    with pytest.raises(InvalidHyperparameter, match=r"data\.num_folds: expected 0 with tuning_data"):
        plan(table, table.head(20), hyperparameters={"data.num_folds": 4})


# ------------------------------------------------------------------------------------------------------------------ fits


def test_what_follows_a_folded_fit(table, here, capsys):
    predictor = MultiModalPredictor("label").fit(table, save_path="run", tracking=None, hyperparameters=SMALL)
    assert "120 rows in 4 folds" in capsys.readouterr().out
    again = MultiModalPredictor.load("run")
    pd.testing.assert_frame_equal(again.predict_proba(table), predictor.predict_proba(table))
    capsys.readouterr()
    more = MultiModalPredictor("label").fit(table, save_path="more", tracking=None, start_from="run", hyperparameters={"optim.max_epochs": 1})
    assert "it has learned from" in capsys.readouterr().out  # all rows, so it says that the score is too optimistic
    assert more._artifact.config.data.num_folds == 0


def test_a_refit_learns_from_all_rows_with_all_networks(table, here):
    fit = {"tracking": None, "hyperparameters": SMALL}
    alone, refitted = (MultiModalPredictor("label", verbosity=0).fit(table, save_path=name, refit=name == "refit", **fit) for name in ("alone", "refit"))
    assert refitted.fit_summary()["refit"]["rows"] == 120
    assert len(refitted._artifact.seen) == len(alone._artifact.seen) == 120
    assert (refitted.predict_proba(table) - alone.predict_proba(table)).abs().to_numpy().max() > 1e-4


def test_folds_are_divided_by_the_seed_and_a_search_remembers_them(table, here):
    fit = {"save_path": "run", "tracking": None, "hyperparameters": SMALL}
    found = MultiModalPredictor("label", verbosity=0).fit(table, **fit).fit_summary()
    assert MultiModalPredictor("label", verbosity=0).fit(table, **fit).fit_summary() == found
    with pytest.raises(SearchMismatch, match=r"data\.num_folds: was 4, is 0"):
        MultiModalPredictor("label", verbosity=0).fit(table, **fit | {"hyperparameters": SMALL | {"data.num_folds": 0}})
