"""Bad input through the public API: a typed error names the offender and a fix, before any work starts."""

import copy
import hashlib
import json
import os
import pickle
import shutil
import time
from pathlib import Path

import huggingface_hub
import numpy as np
import pandas as pd
import pytest
import ray
from optuna.distributions import FloatDistribution
from ray import tune
from sklearn.metrics import f1_score, make_scorer

from automm_hpo import MultiModalPredictor
from automm_hpo import space as spaces
from automm_hpo.errors import (
    AutoMMHPOError,
    BadImages,
    CorruptFile,
    InvalidArgument,
    InvalidData,
    InvalidHyperparameter,
    InvalidSpace,
    InvalidTuneSettings,
    MissingData,
    MultipleProblems,
    NotAPredictor,
    NotFitted,
    NotSupported,
    SavePathExists,
    UnknownHyperparameter,
)

LR = tune.loguniform(1e-4, 1e-2)
SEARCH = {"optim.lr": LR}
NAN, INF = float("nan"), float("inf")
SECONDS = 1.0


@pytest.fixture(autouse=True)
def hub_calls(monkeypatch):
    """Starting Ray fails, and the model hub is unreachable; returns the list of calls made to it."""
    calls = []

    def refuse(*args, **kwargs):
        raise AssertionError("Ray was started")

    def offline(*args, **kwargs):
        calls.append(args)
        raise ConnectionError

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setattr(tune.Tuner, "fit", refuse)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", offline)
    return calls


@pytest.fixture(scope="module", autouse=True)
def _warm(small, tmp_path_factory):
    """Imports everything up front, because a refusal may take one second without imports."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("warm"))
        for given in ({"hyperparameters": {"model.timm_image.pretrained": False, "optim.lr": -1}}, {"tuning_data": small[0][["label"]]}):
            with pytest.raises(AutoMMHPOError):
                MultiModalPredictor("label").fit(small[0].head(20), **given)


def refuse(small, fast, init=(), hyperparameters=(), train_data=None, tuning_data=None, **call) -> list[AutoMMHPOError]:
    """Returns the problems of a fit, which must change neither the current folder nor its arguments."""
    train = small[0]
    call = {name: make(train) if callable(make) else make for name, make in {"train_data": train_data, "tuning_data": tuning_data, **call}.items()}
    call["train_data"] = train if train_data is None else call["train_data"]
    call["hyperparameters"] = hyperparameters if not isinstance(hyperparameters, (dict, tuple)) else {**fast, "optim.max_steps": 1, **dict(hyperparameters)}
    before, there = copy.copy(call), sorted(Path.cwd().rglob("*"))
    nested = {name: dict(value) for name, value in call.items() if isinstance(value, dict)}
    frames = {name: value.copy(deep=True) for name, value in call.items() if isinstance(value, pd.DataFrame)}
    started, began = time.process_time(), time.perf_counter()  # CPU time, because other processes may be running
    with pytest.raises(AutoMMHPOError) as caught:
        MultiModalPredictor(**{"label": "label", "verbosity": 0, **dict(init)}).fit(**call)
    assert time.process_time() - started < SECONDS
    assert time.perf_counter() - began < 20 * SECONDS  # nor does it wait for anything
    assert sorted(Path.cwd().rglob("*")) == there
    assert all(call[name] is before[name] for name in call)
    assert all(call[name] == value for name, value in nested.items())
    for name, frame in frames.items():
        pd.testing.assert_frame_equal(call[name], frame)
    if isinstance(caught.value, MultipleProblems):
        assert all(str(problem) in str(caught.value) for problem in caught.value.problems)
        return caught.value.problems
    return [caught.value]


def row(error, builtin, *words, **call):
    """A call of ``fit``, the error it must raise and words of its message; ``hyperparameters`` are added to fast ones."""
    return pytest.param(error, builtin, words, call, id=" ".join(words)[:80].replace("/", "|"))


def check(rows):
    """Parametrizes the test below it."""
    return pytest.mark.parametrize(("error", "builtin", "words", "call"), rows)


def assert_refused(problems, error, builtin, words):
    found = [problem for problem in problems if type(problem) is error and all(word in str(problem) for word in words)]
    assert found, f"expected {error.__name__} with {words}, got {problems}"
    assert isinstance(found[0], builtin)


def hyper(error, key, value, *words, **call):
    return row(error, ValueError, key, *words, hyperparameters={key: value}, **call)


# ------------------------------------------------------------------------------------------------------------- configuration

CONFIGURATION = [
    hyper(UnknownHyperparameter, "optim.learning_rat", 1e-3, "Did you mean optim.lr"),
    hyper(UnknownHyperparameter, "lr", 1e-3, "Did you mean optim.lr?"),
    hyper(UnknownHyperparameter, "optimization.max_epoch", 1, "Did you mean optim.max_epochs"),
    hyper(UnknownHyperparameter, "optimizer", "sgd", "optim"),
    *(
        hyper(InvalidHyperparameter, "optim.lr", value, "expected a finite float > 0", f"got {value!r}")
        for value in ("abc", -1, 0, NAN, INF, True, None, [1e-3])
    ),
    *(hyper(InvalidHyperparameter, "optim.max_epochs", value, "expected an integer >= 1", f"got {value!r}") for value in (0, -5, 2.5, "ten", None)),
    hyper(InvalidHyperparameter, "optim.optim_type", "adamww", "'adamw', 'adam'", "Did you mean adamw"),
    hyper(InvalidHyperparameter, "optim.lr_schedule", "cosine_deca", "'linear_decay'", "Did you mean cosine_decay"),
    hyper(InvalidHyperparameter, "model.names", ["timm_imag"], "Did you mean timm_image?"),
    hyper(InvalidHyperparameter, "model.timm_image.checkpoint_name", "mobilenetv3_larg_100", "'mobilenetv3_larg_100'", "Did you mean mobilenetv3_large_100"),
    hyper(InvalidHyperparameter, "model.timm_image.checkpoint_name", "resnet18.no_such_tag", "resnet18.a1_in1k"),
    hyper(InvalidHyperparameter, "model.fusion_mlp.hidden_sizes", [], "expected a sequence of widths", "got []"),
    hyper(InvalidHyperparameter, "optim", 5, "expected a dict of them", "got 5"),
    row(InvalidHyperparameter, ValueError, "optim", "expected a dict of them", "got 'sgd'", hyperparameters={"optimization": "sgd"}),
    row(InvalidHyperparameter, ValueError, "optim.lr", "twice", "dotted", hyperparameters={"optim": {"lr": 1e-3}}),
    row(InvalidHyperparameter, ValueError, "optim.momentum and optimization.momentum", hyperparameters={"optim.momentum": 0, "optimization.momentum": 0.5}),
    row(
        InvalidHyperparameter,
        ValueError,
        "env.eval_batch_size_ratio and env",
        hyperparameters={"env.eval_batch_size_ratio": 1, "env": {"inference_batch_size_ratio": 2}},
    ),
    *(
        row(MissingData, FileNotFoundError, "model.timm_image.checkpoint_path", f": {path}", hyperparameters={"model.timm_image.checkpoint_path": path})
        for path in ("/data/a=b: c", "${oc.env:HOME}", "None")
    ),
    *(row(InvalidHyperparameter, ValueError, "hyperparameters", "expected a dict", hyperparameters=value) for value in ("optim.lr", ["optim.lr"], 5)),
    row(InvalidHyperparameter, ValueError, "hyperparameters", "expected a dict", init={"hyperparameters": "optim.lr"}),
]


@check(CONFIGURATION)
def test_configuration(error, builtin, words, call, here, small, fast):
    assert_refused(refuse(small, fast, **call), error, builtin, words)


def test_one_mistake_is_one_problem_and_asks_no_network(here, small, fast, hub_calls):
    assert [str(problem).split(":")[0] for problem in refuse(small, fast, hyperparameters={"optim.lr": -1})] == ["optim.lr"]
    assert not hub_calls


@pytest.mark.parametrize(
    "init", [{"hyperparameters": {"optimization.learning_rate": 1e-3}}, {"hyperparameters": {"optim": {"lr": 1e-3}}}], ids=["an older name", "nested"]
)
def test_the_hyperparameters_of_fit_win_under_any_name(init, here, small, fast):
    problems = refuse(small, fast, init=init, hyperparameters={"optim.lr": "abc"})
    assert not any("same hyperparameter" in str(problem) or "twice" in str(problem) for problem in problems)


# ---------------------------------------------------------------------------------------------------------- spaces and settings


def space(error, builtin, value, *words, key="optim.lr", **call):
    return row(error, builtin, key, *words, hyperparameters={key: value}, **{"hyperparameter_tune_kwargs": "random", **call})


def settings(value, *words, error=InvalidTuneSettings, builtin=ValueError):
    return row(error, builtin, *words, hyperparameters=SEARCH, hyperparameter_tune_kwargs=value)


SPACES = [
    row(InvalidTuneSettings, ValueError, "optim.lr", "give it (e.g. 'auto')", "fixed values instead", hyperparameters=SEARCH),
    row(InvalidTuneSettings, ValueError, "no hyperparameter has a search space", "tune.*", "leave", hyperparameter_tune_kwargs="auto"),
    space(InvalidSpace, ValueError, tune.choice([]), "at least one option"),
    space(InvalidSpace, ValueError, tune.uniform(0.2, 0.1), "lower < upper"),
    space(InvalidSpace, ValueError, tune.uniform(0, 0.1), "finite float > 0", "got 0.0"),
    space(InvalidSpace, ValueError, tune.randint(0, 5), "integer >= 1", "got 0", key="optim.max_epochs"),
    space(InvalidSpace, ValueError, tune.uniform(1, 5), "whole numbers", key="optim.max_epochs"),
    space(InvalidSpace, ValueError, tune.choice(["adamw", "sgdd"]), "'sgdd'", "Did you mean sgd?", key="optim.optim_type"),
    space(InvalidSpace, ValueError, tune.randint(0, 2), "cannot vary", key="env.num_gpus"),
    space(InvalidSpace, ValueError, tune.choice(["quantile", "standard"]), "cannot vary", "encoded once", key="data.numerical.scaling"),
    space(InvalidSpace, ValueError, tune.randint(1, 9), "cannot vary", "encoded once", key="data.categorical.minimum_cat_count"),
    space(InvalidHyperparameter, ValueError, tune.choice(["test_resnet", "resnet81"]), "'resnet81'", "Did you mean", key="model.timm_image.checkpoint_name"),
    space(NotSupported, NotImplementedError, tune.grid_search([1e-3, 1e-4]), "grid_search", "'bayes'", "tune.choice", hyperparameter_tune_kwargs="bayes"),
    space(InvalidSpace, ValueError, tune.grid_search([]), "at least one option"),
    space(InvalidSpace, ValueError, {"grid_search": 1e-3}, "grid_search", "expected a list", "got 0.001"),
    space(InvalidSpace, ValueError, FloatDistribution(0, 0.1), "finite float > 0", "got 0.0"),
    space(InvalidSpace, ValueError, spaces.lognormal(0, 0.1), "[0, 1)", "1.49", key="optim.momentum"),
    space(InvalidSpace, ValueError, spaces.hyperdrive.loguniform(-3, 1), "[0, 1)", "2.71", key="optim.momentum"),
    space(InvalidSpace, ValueError, tune.sample_from(lambda config: config["lr"]), "sample_from", "KeyError: 'lr'", "optim.max_epochs"),
    space(InvalidSpace, ValueError, tune.sample_from(lambda config: -config["optim.max_epochs"]), "finite float > 0", "got -2", "sample_from"),
    space(NotSupported, NotImplementedError, tune.sample_from(lambda: 32), "sample_from", "before the search", key="model.timm_image.image_size"),
    space(InvalidSpace, ValueError, tune.choice([1e-3, tune.uniform(0, 0.2)]), "optim.lr[1]", "got 0.0"),
    space(InvalidSpace, ValueError, tune.choice([1e-3, tune.choice([])]), "at least one option"),
    space(InvalidSpace, ValueError, tune.uniform(0, 1), "group", "choice of dicts", key="optim"),
    space(InvalidSpace, ValueError, tune.choice([{"optim_type": "sgd"}, 5]), "expected dicts", "got 5", key="optim"),
    space(InvalidSpace, ValueError, tune.choice([{}]), "only empty dicts", key="optim"),
    space(InvalidSpace, ValueError, tune.choice([{"momentum": 0.5}, {"momentum": tune.uniform(0, 2)}]), "optim[1]", "optim.momentum", "got 2.0", key="optim"),
    space(UnknownHyperparameter, ValueError, tune.choice([{"momentun": 0.5}, {}]), "optim[0]", "Did you mean optim.momentum", key="optim"),
    space(InvalidHyperparameter, ValueError, tune.choice([{"optim_type": "sgd"}, {"optim_type": "sgdd"}]), "optim[1]", "Did you mean sgd?", key="optim"),
    space(InvalidHyperparameter, ValueError, tune.choice([{"max_epochs": 3}, {}]), "optim.max_epochs", "by optim", key="optim"),
    space(InvalidSpace, ValueError, tune.choice([{"num_gpus": 0}, {}]), "cannot vary", key="env"),
    space(MissingData, FileNotFoundError, tune.choice([{"checkpoint_path": "absent.bin"}, {}]), "checkpoint_path", "absent.bin", key="model.timm_image"),
    *(settings({"num_trials": value}, "num_trials", "integer >= 1", f"got {value!r}") for value in (0, -1, 2.5, "many", True)),
    settings({"num_to_keep": 0}, "num_to_keep", "integer >= 1"),
    settings({"num_trails": 3}, "num_trails", "Did you mean num_trials?", "scheduler"),
    settings({"searcher": "bayess"}, "searcher", "random, grid, bayes", "Did you mean bayes"),
    settings({"searcher": "hebo"}, "hebo", "not offered", "'gp' serves instead", error=NotSupported, builtin=NotImplementedError),
    settings({"searcher": 5}, "searcher", "a Ray Searcher or an Optuna sampler", "got 5"),
    settings({"scheduler": "ASHAA"}, "scheduler", "FIFO, ASHA", "Did you mean ASHA?"),
    settings({"scheduler": "BOHB"}, "scheduler", "BOHB needs searcher='bohb'", "HyperBand"),
    settings({"searcher": "bohb", "scheduler": "FIFO"}, "bohb needs scheduler='BOHB'"),
    settings({"searcher": "zoopt", "scheduler": "HyperBand"}, "zoopt waits for its first trials to end"),
    settings({"scheduler": "bandit"}, "slack_factor", "slack_amount", "neither"),
    settings({"scheduler": "truncation", "scheduler_init_args": {"truncation_percentage": 100}}, "integer in [1, 99]"),
    space(
        InvalidTuneSettings,
        ValueError,
        tune.choice([16, 32]),
        "PBT",
        "cannot change",
        "optim.weight_decay",
        key="env.batch_size",
        hyperparameter_tune_kwargs={"scheduler": "PBT"},
    ),
    space(
        NotSupported,
        NotImplementedError,
        tune.choice([{"optim_type": "sgd"}, {"optim_type": "adamw"}]),
        "gp",
        "conditional",
        key="optim",
        hyperparameter_tune_kwargs={"searcher": "gp"},
    ),
    settings({"searcher": "grid"}, "grid", "finite space", error=InvalidSpace),
    settings({"metric": "accuracyy"}, "metric: expected one of", "Did you mean accuracy", error=InvalidArgument),
    settings({"metric": "accuracy", "mode": "min"}, "mode='min'", "higher accuracy is better"),
    settings({"mode": "maximum"}, "mode", "'max', 'min'"),
    settings({"goal": float("nan")}, "goal", "a finite number"),
    settings({"trial_time_limit": 0}, "trial_time_limit", "finite float > 0"),
    settings({"max_failed_trials": -1}, "max_failed_trials", "integer >= 0"),
    settings({"disk_quota_mb": 1}, "disk_quota_mb", "1 MB are allowed", "num_to_keep"),
    settings({"points_to_evaluate": [{"optim.lr": 5.0}]}, "points_to_evaluate[0]", "optim.lr", error=InvalidSpace),
    *(
        settings({"points_to_evaluate": [{"optim.lr": 1e-3}, point]}, *words, error=error)
        for point, error, *words in (
            ({"optim.lr": 5.0, "optim.patience": 3}, InvalidSpace, "points_to_evaluate[1]: optim.patience", "is not searched"),
            ({"optim.lrr": 1e-3}, UnknownHyperparameter, "points_to_evaluate[1]: optim.lrr", "Did you mean optim.lr?"),
        )
    ),
    settings({"scheduler": tune.schedulers.ASHAScheduler}, "the class AsyncHyperBandScheduler; make an object of it"),
    settings({"points_to_evaluate": {"optim.lr": 5.0}}, "points_to_evaluate", "a list of dicts"),
    settings("atuo", "'atuo'", "Did you mean auto?"),
    settings(5, "expected a dict or a preset's name", "got 5"),
    settings(["auto"], "expected a dict or a preset's name"),
    settings({"scheduler_init_args": {"max_t": 2, "grace_period": 3}}, "grace_period <= max_t"),
    settings({"searcher_init_args": {"n_startup": 3}}, "n_startup", "Did you mean n_startup_trials?"),
    settings({"resources_per_trial": {"cpu": 10_000}}, "resources_per_trial", "needs 10000 cpu", "are available"),
    settings({"resources_per_trial": {"gpu": 100}}, "resources_per_trial", "needs 100 gpu", "are available"),
    settings({"resources_per_trial": {"cpu": True}}, "resources_per_trial", "{'cpu': True}"),
    settings({"resources_per_trial": {"cpus": 1}}, "resources_per_trial", "{'cpus': 1}", "'cpu'"),
]


@check(SPACES)
def test_spaces_and_settings(error, builtin, words, call, here, small, fast):
    assert_refused(refuse(small, fast, **call), error, builtin, words)


# -------------------------------------------------------------------------------------------------------------- labels and tables


def data(*words, error=InvalidData, builtin=ValueError, **call):
    return row(error, builtin, *words, **call)


def with_labels(labels):
    """Replaces the labels by these, repeated."""
    return lambda train: train.assign(label=[labels[i % len(labels)] for i in range(len(train))])


def with_column(*values):
    """Adds a column ``x`` of these values, repeated."""
    return lambda train: train.assign(x=pd.Series([values[i % len(values)] for i in range(len(train))], index=train.index))


def first_labels(*labels):
    """Replaces the first labels of the table."""
    return lambda train: train.assign(label=[*labels, *train["label"].tolist()[len(labels) :]])


DATA = [
    data("no label column 'labl'", "'image', 'label'", "Did you mean label?", init={"label": "labl"}),
    data("no label column 5", "'image', 'label'", init={"label": 5}),
    data("label: expected the name", error=InvalidArgument, init={"label": None}),
    data("label", error=InvalidArgument, init={"label": ["label"]}),
    data("'label'", "3 of 200", "rows 0, 1, 2", train_data=first_labels(None, NAN, None)),
    data("'label'", "2 of 200", "row", train_data=lambda train: train.assign(label=[INF, -INF] + [float(i) for i in range(198)])),
    data("'label'", "at least 2 different values", "'bag'", "200 rows", train_data=with_labels(["bag"])),
    data("'label'", "1e+150", "row 0 has 1e+200", train_data=lambda train: train.assign(label=[1e200, -1e200, *np.linspace(0, 1, len(train) - 2)])),
    data("'label'", "2 classes", "got 10", init={"problem_type": "binary"}),
    data("'label'", "regression", "numbers", init={"problem_type": "regression"}),
    data("'label'", "'zebra' (2 rows)", "row", tuning_data=first_labels("zebra", "zebra")),
    data("'label'", "2 of 200", tuning_data=first_labels(None, None)),
    data("tuning_data: lacks the columns 'label'", "'image'", tuning_data=lambda train: train[["image"]]),
    data("tuning_data: lacks the columns 'image'", tuning_data=lambda train: train[["label"]]),
    data(
        "tuning_data",
        "no rows",
        tuning_data=lambda train: train.head(0),
        tracking=None,
    ),
    data("tuning_data", "expected a DataFrame", "int", tuning_data=5),
    data("train_data", "expected a DataFrame", "int", train_data=5),
    data("train_data", "expected a DataFrame", "ndarray", train_data=lambda train: train.to_numpy()),
    data("train_data", "expected a DataFrame", "Series", train_data=lambda train: train["label"]),
    data("unique", "'image'", train_data=lambda train: pd.concat([train, train[["image"]]], axis=1)),
    data(
        "column names must be",
        "('a', 'b') (tuple) and 1 more",
        "'_'.join",
        train_data=lambda train: train.assign(x=1, y=2).rename(columns={"x": ("a", "b"), "y": (1, 2)}),
    ),
    data(
        "column names must be",
        "('image', '') (tuple) and 1 more",
        train_data=lambda train: train.set_axis(pd.MultiIndex.from_product([train.columns, [""]]), axis=1),
    ),
    *(
        data("column names must be", type(name).__name__, "map(str)", train_data=lambda train, name=name: train.assign(x=1).rename(columns={"x": name}))
        for name in (pd.Timestamp("2026-01-01"), NAN, b"x", np.int64(3))
    ),
    data("no rows", train_data=lambda train: train.head(0)),
    data("at least 2 different values", "1 row", train_data=lambda train: train.head(1)),
    data("no column to learn from", "only the label", train_data=lambda train: train[["label"]]),
    data("no column to learn from", "'image' (null: all values missing)", train_data=lambda train: train.assign(image=None)),
    data(
        "columns of numbers",
        "real_mlp",
        "column_types",
        error=InvalidHyperparameter,
        hyperparameters={"model.names": ["timm_image"]},
        train_data=with_column(5, 6),
    ),
    data("'x'", "expected finite numbers", "row 0: inf, row 1: -inf", train_data=with_column(INF, -INF)),
    data("'x'", "expected numbers", "row 1: 'ten'", column_types={"x": "numerical"}, train_data=with_column(1, "ten")),
    data("'x'", "expected dates", "row 0: 'soon'", column_types={"x": "datetime"}, train_data=with_column("soon", "2024-01-01")),
    data("'x', row 0", "expected an image as a path", "int", column_types={"x": "image_path"}, train_data=with_column(5)),
    data("tuning_data: lacks the columns 'x'", train_data=with_column(1, 2), tuning_data=lambda train: train),
    data("'x'", "expected finite numbers", "row 1: inf", train_data=with_column(1, 2), tuning_data=with_column(1, INF)),
    data("sample_weight", "'x'", "finite numbers >= 0", "row 1: -1", init={"sample_weight": "x"}, train_data=with_column(1, -1)),
    data("no sample_weight column 'y'", init={"sample_weight": "y"}),
    data("sample_weight", "not the label's", error=InvalidArgument, init={"sample_weight": "label"}),
    data("optim.class_weights", "10 classes", "got 2", error=InvalidHyperparameter, hyperparameters={"optim.class_weights": [1, 2]}),
    data("optim.class_weights", "expected 'balanced'", error=InvalidHyperparameter, hyperparameters={"optim.class_weights": "balance"}),
    data(
        "optim.class_weights",
        "sample_weight",
        error=InvalidHyperparameter,
        hyperparameters={"optim.class_weights": "balanced"},
        train_data=lambda train: train.assign(label=[i / 7 for i in range(200)]),
    ),
    data("feature_extraction", "extract_embedding", error=NotSupported, builtin=NotImplementedError, init={"problem_type": "feature_extraction"}),
    data("neg_mean_squared_error does not fit", error=InvalidArgument, init={"eval_metric": "neg_mean_squared_error"}),
    data("scorer.f1_score: cannot be computed here", error=InvalidArgument, init={"eval_metric": make_scorer(f1_score)}),
    data("make_scorer", error=InvalidArgument, init={"validation_metric": f1_score}),
    data("column_types", "'imag'", "Did you mean image?", error=InvalidArgument, column_types={"imag": "image_path"}),
    data("column_types['image']", "image_path", "'picture'", error=InvalidArgument, column_types={"image": "picture"}),
    data("column_types", error=InvalidArgument, column_types="image"),
    data("no such file", "nope.csv", error=MissingData, builtin=FileNotFoundError, train_data="nope.csv"),
    data("train_data", "file", error=MissingData, builtin=FileNotFoundError, train_data="."),
    data("no such file", "nope.parquet", error=MissingData, builtin=FileNotFoundError, tuning_data=Path("nope.parquet")),
    data("eval_metric", "'acuracy'", "Did you mean accuracy?", error=InvalidArgument, init={"eval_metric": "acuracy"}),
    data("validation_metric", "got 5", "accuracy", error=InvalidArgument, init={"validation_metric": 5}),
    data("eval_metric", "rmse does not fit a multiclass problem", "accuracy", error=InvalidArgument, init={"eval_metric": "rmse"}),
    data("validation_metric", "roc_auc does not fit", "roc_auc_ovr", error=InvalidArgument, init={"validation_metric": "roc_auc"}),
    data("problem_type", "'multi'", "Did you mean multiclass?", error=InvalidArgument, init={"problem_type": "multi"}),
    data("problem_type", "ner", "multiclass", error=NotSupported, builtin=NotImplementedError, init={"problem_type": "ner"}),
]


@check(DATA)
def test_tables_and_labels(error, builtin, words, call, here, small, fast):
    assert_refused(refuse(small, fast, **call), error, builtin, words)


@pytest.mark.parametrize(("name", "content"), [("train.csv", b"\x00\xff\xfe"), ("train.csv", b""), ("train.parquet", b"not parquet"), ("train.txt", b"a,b")])
def test_files_that_are_no_tables(name, content, here, small, fast):
    (here / name).write_bytes(content)
    assert_refused(refuse(small, fast, train_data=name), InvalidData, ValueError, ["train_data", name])


# --------------------------------------------------------------------------------------------------------------- other arguments


def argument(name, value, *words, error=InvalidArgument, builtin=ValueError, **call):
    return row(error, builtin, name, *words, **{name: value}, **call)


ARGUMENTS = [
    *(argument("time_limit", value, "seconds > 0", f"got {value!r}") for value in (0, -1, NAN, INF, "x", True, [1])),
    *(argument("seed", value, "integer >= 0", f"got {value!r}") for value in ("x", -1, 1.5, NAN, 2**32)),
    *(argument("seed", value, "integer >= 0", f"got {value!r}") for value in (None, True)),
    *(argument("holdout_frac", value, "between 0 and 1", f"got {value!r}") for value in (0, 1, 2, -0.1, True)),
    *(argument("holdout_frac", value, "between 0 and 1", f"got {value!r}") for value in ("x", NAN)),
    *(argument("max_num_tuning_data", value, "integer >= 1", f"got {value!r}") for value in (0, -1, 2.5, "x", True)),
    argument("max_num_tuning_data", "x", "integer >= 1", tuning_data=lambda train: train),
    argument("tracking", "wandb", "'mlflow'", "got 'wandb'"),
    argument("presets", "best_qualty", "medium_quality_hpo", "Did you mean best_quality"),
    argument("presets", 5, "medium_quality", "got int. Rows to validate on are tuning_data="),
    argument("presets", pd.DataFrame({"a": [1]}), "medium_quality", "got DataFrame. Rows to validate on are tuning_data="),
    row(InvalidArgument, ValueError, "presets", "high_quality", init={"presets": "extreme"}, tracking=None),
    *(row(InvalidArgument, ValueError, "verbosity", f"got {value!r}", init={"verbosity": value}, tracking=None) for value in ("x", None, 2.5)),
    row(InvalidArgument, ValueError, "pretrained", "'no'", init={"pretrained": "no"}, tracking=None),
    *(argument("save_path", value, f"got {value!r}") for value in (5, b"out", ["out"])),
    argument("save_path", "a\0b", tracking=None),
    row(InvalidArgument, ValueError, "path", "got 5", init={"path": 5}),
]


@check(ARGUMENTS)
def test_arguments(error, builtin, words, call, here, small, fast):
    assert_refused(refuse(small, fast, **call), error, builtin, words)


@pytest.mark.parametrize(
    "call", [{"time_limit": np.int64(60)}, {"holdout_frac": np.float32(0.25)}, {"max_num_tuning_data": np.int64(9)}], ids=lambda call: next(iter(call))
)
def test_numpy_scalars_are_numbers(call, here, small, fast):
    problems = refuse(small, fast, hyperparameters={"optim.lr": -1}, **call)
    assert not any(next(iter(call)) in str(problem) for problem in problems)


@pytest.mark.parametrize("kind", ["files", "hidden file", "subfolder", "a file", "a search"])
def test_a_save_path_with_somebodys_files(kind, here, small, fast):
    place = here / "place"
    if kind == "a file":
        place.write_text("mine")
    else:
        (place / ("search" if kind in ("subfolder", "a search") else "")).mkdir(parents=True)
        (place / {"files": "mine.txt", "hidden file": ".mine", "subfolder": "search/mine.txt", "a search": "search/settings.json"}[kind]).write_text("mine")
    content = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    problems = refuse(small, fast, save_path="place", tracking=None)
    assert_refused(problems, SavePathExists, FileExistsError, ["save_path", str(place), "new or an empty folder"])
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == content
    assert_refused(refuse(small, fast, init={"path": place}, tracking=None), SavePathExists, FileExistsError, [str(place)])


def test_a_save_path_below_a_file(here, small, fast):
    (here / "file").write_text("mine")
    assert_refused(refuse(small, fast, save_path="file/place", tracking=None), SavePathExists, FileExistsError, ["save_path", str(here / "file")])


# ---------------------------------------------------------------------------------------------------------------- all together

MANY = {
    "hyperparameters": {"optim.lr": "abc", "optim.momentum": tune.uniform(0, 2), "env": 5, "max_epoch": 1},
    "hyperparameter_tune_kwargs": {"num_trails": 3, "num_to_keep": 0},
    "tracking": "wandb",
    "train_data": with_labels(["bag"]),
}
MANY_NAMED = ["optim.lr", "optim.momentum", "env", "max_epoch", "num_trails", "num_to_keep", "tracking", "label column"]


def test_settings_that_were_refused_are_not_judged_against_the_space(here, small, fast):
    """Defaults stand in for refused settings and must raise no problem of their own: "bayes" takes no grid."""
    grid = {"optim.lr": tune.grid_search([1e-3, 1e-2])}
    [problem] = refuse(small, fast, hyperparameters=grid, hyperparameter_tune_kwargs={"searcher": "random", "num_trails": 2})
    assert "num_trails" in str(problem)


def test_all_problems_of_a_call_are_reported_together(here, small, fast):
    (here / "place").mkdir()
    (here / "place" / "mine.txt").write_text("mine")
    problems = [str(problem) for problem in refuse(small, fast, save_path="place", **MANY)]
    for name in [*MANY_NAMED, "save_path"]:
        assert any(name in problem for problem in problems), name


def test_the_time_limit_is_reported_with_the_others(here, small, fast):
    problems = [str(problem) for problem in refuse(small, fast, time_limit=0, **MANY)]
    for name in [*MANY_NAMED, "time_limit"]:
        assert any(name in problem for problem in problems), name


def test_a_missing_column_is_reported_with_the_others(here, small, fast):
    problems = [str(problem) for problem in refuse(small, fast, hyperparameters={"optim.lr": 0}, tuning_data=lambda train: train[["label"]])]
    for name in ("optim.lr", "lacks the columns 'image'"):
        assert any(name in problem for problem in problems), name


# ------------------------------------------------------------------------------------------------------------------------ images


def spoil(train, folder):
    """Returns the table with one image missing and five unreadable, and the paths of all six."""
    (folder / "folder.png").mkdir()
    os.mkfifo(folder / "fifo.png")
    (folder / "empty.png").touch()
    (folder / "html.jpg").write_text("<html>not found</html>")
    whole = Path(train["image"].iloc[0]).read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    names = ["missing.png", "empty.png", "html.jpg", "cut.png", "folder.png", "fifo.png"]
    bad = [str(folder / name) for name in names]
    return train.assign(image=[*bad, *train["image"].tolist()[len(bad) :]]), bad


def fit_on_bad_images(here, small, fast, tmp_path_factory, tuning_data=True, **call):
    """Puts three bad images in each split, or all six in train_data; returns the paths that the error names, and all six."""
    table, bad = spoil(small[0].head(60), tmp_path_factory.mktemp("bad"))
    if tuning_data:
        call["tuning_data"] = pd.concat([table.iloc[3:6], table.tail(10)])
        table = table.drop(index=[3, 4, 5])
    there = sorted(here.rglob("*"))
    with pytest.raises(BadImages) as caught:
        MultiModalPredictor("label", verbosity=0).fit(table, hyperparameters={**fast, **call.pop("hyperparameters", {})}, **call)
    assert isinstance(caught.value, ValueError)
    assert "missing_value_strategy='skip'" in str(caught.value)
    assert sorted(here.rglob("*")) == there
    return [path for path in bad if path in str(caught.value)], bad


@pytest.mark.parametrize("exists", [False, True])
def test_bad_images_are_listed_and_the_folder_is_as_before(exists, here, small, fast, tmp_path_factory):
    if exists:
        (here / "place").mkdir()
    named, _ = fit_on_bad_images(here, small, fast, tmp_path_factory, save_path="place", tracking=None)
    assert len(named) >= 3


def test_bad_images_of_both_splits_are_listed_together(here, small, fast, tmp_path_factory):
    named, bad = fit_on_bad_images(here, small, fast, tmp_path_factory, save_path="place", tracking=None)
    assert named == bad


@pytest.mark.parametrize(
    "call",
    [
        {"save_path": "a/b/c", "tracking": None},
        {"tracking": None},
        {"save_path": "place"},
    ],
    ids=["nested", "default path", "mlflow"],
)
def test_bad_images_leave_nothing_anywhere(call, here, small, fast, tmp_path_factory):
    fit_on_bad_images(here, small, fast, tmp_path_factory, **call)


def test_bad_images_are_found_before_ray_is_started(here, small, fast, tmp_path_factory):
    search = {"hyperparameters": SEARCH, "hyperparameter_tune_kwargs": "random", "tracking": None, "save_path": "place"}
    fit_on_bad_images(here, small, fast, tmp_path_factory, **search)


def test_no_readable_image_at_all(here, small, fast):
    with pytest.raises(BadImages, match=r"no row .* has readable images"):
        MultiModalPredictor("label", verbosity=0).fit(
            small[0].assign(image="missing.png"),
            hyperparameters={**fast, "data.image.missing_value_strategy": "skip"},
            save_path="place",
            tracking=None,
        )
    assert not list(here.iterdir())


# ----------------------------------------------------------------------------------------------------------- a predictor's calls


@pytest.mark.parametrize("name", ["predict", "predict_proba", "evaluate", "leaderboard", "fit_summary", "save"])
def test_calls_before_fit(name, small, here):
    arguments = {"leaderboard": [], "fit_summary": [], "save": ["place"]}.get(name, [small[1]])
    with pytest.raises(NotFitted, match=r"call fit, or MultiModalPredictor\.load") as caught:
        getattr(MultiModalPredictor("label"), name)(*arguments)
    assert isinstance(caught.value, RuntimeError)
    assert not list(here.iterdir())


@pytest.mark.parametrize("name", ["column_types", "class_labels", "positive_class", "total_parameters", "trainable_parameters", "model_size"])
def test_properties_before_fit(name):
    with pytest.raises(NotFitted):
        getattr(MultiModalPredictor("label"), name)


@pytest.fixture(scope="module")
def fitted(small, tmp_path_factory):
    hyperparameters = {"model.timm_image.checkpoint_name": "test_resnet", "model.timm_image.pretrained": False, "model.timm_image.image_size": 32}
    place = tmp_path_factory.mktemp("fitted") / "predictor"
    call = {"hyperparameters": hyperparameters | {"optim.max_epochs": 1}, "save_path": place, "tracking": None}
    return MultiModalPredictor("label", verbosity=0).fit(small[0].head(60), **call)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda test: test[["label"]], InvalidData, ["missing columns: 'image'", "'label'"]),
        (lambda test: test.rename(columns={"image": "imag"}), InvalidData, ["missing columns: 'image'", "Did you mean imag?"]),
        (lambda test: {"Image": test["image"].tolist(), "label": test["label"].tolist()}, InvalidData, ["missing columns: 'image'", "Did you mean Image?"]),
        (lambda test: pd.concat([test, test], axis=1), InvalidData, ["unique", "'image'"]),
        (lambda test: test["image"], InvalidData, ["expected a DataFrame", "Series"]),
        (lambda test: None, InvalidData, ["expected a DataFrame", "NoneType"]),
        (lambda test: "nope.csv", MissingData, ["nope.csv"]),
        (lambda test: test.assign(image=["missing.png", *test["image"][1:]]), BadImages, ["1 image", "missing.png", "skip"]),
        (lambda test: test.assign(image=[None, *test["image"][1:]]), BadImages, ["1 image", "skip"]),
        (lambda test: test.assign(image=5), InvalidData, ["'image'", "path"]),
    ],
)
@pytest.mark.parametrize("name", ["predict", "predict_proba", "evaluate"])
def test_predicting_from_bad_tables(name, make, error, words, fitted, small, here):
    table = make(small[1].head(5))
    before = table.copy(deep=True) if isinstance(table, pd.DataFrame) else None
    with pytest.raises(error) as caught:
        getattr(fitted, name)(table)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert before is None or before.equals(table)


@pytest.mark.parametrize(
    ("table", "metrics", "error", "words"),
    [
        (["image"], None, InvalidData, ["no label column 'label'"]),
        (["image", "label"], "acuracy", InvalidArgument, ["Did you mean accuracy?"]),
        (["image", "label"], ["accuracy", "rmse"], InvalidArgument, ["rmse does not fit a multiclass problem"]),
        (["image", "label"], 5, InvalidArgument, ["metrics"]),
    ],
)
def test_evaluating_badly(table, metrics, error, words, fitted, small):
    with pytest.raises(error) as caught:
        fitted.evaluate(small[1][table].head(5), metrics)
    assert all(word in str(caught.value) for word in words)


def test_evaluating_classes_that_training_had_not(fitted, small):
    with pytest.raises(InvalidData, match=r"'zebra' \(5 rows\)"):
        fitted.evaluate(small[1].head(5).assign(label="zebra"))
    with pytest.raises(InvalidData, match="no rows"):
        fitted.evaluate(small[1].head(0))


def test_saving_over_somebodys_files(fitted, here):
    (here / "place").mkdir()
    (here / "place" / "mine.txt").write_text("mine")
    (here / "file").write_text("mine")
    for place in ("place", "file"):
        with pytest.raises(SavePathExists, match=place) as caught:
            fitted.save(here / place)
        assert isinstance(caught.value, FileExistsError)
    assert sorted(path.name for path in here.rglob("*")) == ["file", "mine.txt", "place"]


# ---------------------------------------------------------------------------------------------------------------------- loading


class Evil:
    """Creates the file ``trace`` when unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


def sealed(folder):
    """Rewrites the manifest to match the folder's files, as an attacker could."""
    names = json.loads((folder / "MANIFEST.json").read_text())
    (folder / "MANIFEST.json").write_text(json.dumps({name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}))


def described(folder, change):
    """Changes the folder's description and rewrites the manifest."""
    description = json.loads((folder / "predictor.json").read_text())
    change(description)
    (folder / "predictor.json").write_text(json.dumps(description))
    sealed(folder)


FILES = ["predictor.json", "encoders.json", "model.safetensors"]


@pytest.fixture
def folder(fitted, tmp_path):
    return Path(shutil.copytree(fitted.path, tmp_path / "copy"))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["one bit", "cut", "empty", "missing"])
def test_loading_a_damaged_folder(how, name, folder):
    path = folder / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes({"one bit": content, "cut": content[:-1], "empty": b""}[how])
    with pytest.raises(CorruptFile) as caught:
        MultiModalPredictor.load(folder)
    assert str(path) in str(caught.value)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("content", ["", "{", "null", "[]", "{}", '{"predictor.json": "0"}', '{"../../etc/passwd": "0"}', "\x00"])
def test_loading_with_a_damaged_manifest(content, folder):
    (folder / "MANIFEST.json").write_text(content)
    with pytest.raises((CorruptFile, NotAPredictor), match=r"MANIFEST\.json"):
        MultiModalPredictor.load(folder)


@pytest.mark.parametrize("kind", ["absent", "a file", "empty", "somebody's", "an unfinished search"])
def test_loading_what_is_no_predictor(kind, here):
    place = here / "place"
    if kind == "a file":
        place.write_text("mine")
    elif kind != "absent":
        place.mkdir()
    if kind == "somebody's":
        (place / "assets.json").write_text("{}")
    if kind == "an unfinished search":
        (place / "search").mkdir()
    with pytest.raises(NotAPredictor, match="place") as caught:
        MultiModalPredictor.load("place")
    assert isinstance(caught.value, ValueError)
    assert ("never finished" in str(caught.value)) == (kind == "an unfinished search")


def test_loading_a_newer_format(folder):
    described(folder, lambda description: description.update(format_version=99))
    with pytest.raises(NotAPredictor, match=r"format 99 .*this version reads 3: fit again, or load it with automm_hpo"):
        MultiModalPredictor.load(folder)


def test_loading_another_librarys_folder(folder):
    described(folder, lambda description: description.update(format="another"))
    with pytest.raises(NotAPredictor, match="not written by automm_hpo"):
        MultiModalPredictor.load(folder)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda description: description.pop("format_version"), id="no version"),
        pytest.param(lambda description: description.update(format_version="1"), id="version as text"),
        pytest.param(lambda description: description.pop("problem"), id="no problem"),
        pytest.param(lambda description: description.update(problem=None), id="problem null"),
        pytest.param(lambda description: description["columns"][0].pop(), id="no types"),
        pytest.param(lambda description: description.update(eval_metric="no_such_metric"), id="unknown metric"),
        pytest.param(lambda description: description["members"][0]["model_source"]["timm_image"].update(architecture="no_such_model"), id="unknown model"),
        pytest.param(lambda description: description["members"][0].pop("model_source"), id="no source"),
        pytest.param(lambda description: description["members"][0]["config"].update({"optim.no_such_key": 1}), id="unknown key"),
        pytest.param(lambda description: description.pop("members"), id="no members"),
        pytest.param(lambda description: description.update(members=[]), id="not one member"),
        pytest.param(lambda description: description.update(members=5), id="members a number"),
        pytest.param(lambda description: description["members"].append(description["members"][0]), id="a member without weights"),
        pytest.param(lambda description: description["members"][0].pop("weight"), id="a member without a share"),
        pytest.param(lambda description: description["members"][0].update(weight=0), id="a share of nothing"),
        pytest.param(lambda description: description["members"][0].update(weight="1"), id="a share as text"),
    ],
)
def test_loading_a_malformed_description(change, folder):
    described(folder, change)
    with pytest.raises(AutoMMHPOError):
        MultiModalPredictor.load(folder)


def test_nothing_in_a_folder_is_executed(folder, small):
    trace = folder.parent / "trace"
    for name in ("model.pkl", "model.pt", "df_preprocessor.pkl", "search/searcher.pkl"):
        (folder / name).write_bytes(pickle.dumps(Evil(trace)))
    assert len(MultiModalPredictor.load(folder).predict(small[1].head(3))) == 3
    for name in FILES:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(pickle.dumps(Evil(trace)))
        sealed(folder)
        with pytest.raises((CorruptFile, NotAPredictor)):
            MultiModalPredictor.load(folder)
        (folder / name).write_bytes(content)
    assert not trace.exists()
    pickle.loads(pickle.dumps(Evil(trace)))
    assert trace.exists()


@pytest.mark.parametrize("path", [5, None, ["place"]], ids=repr)
def test_loading_from_no_path(path):
    with pytest.raises(AutoMMHPOError):
        MultiModalPredictor.load(path)


def test_the_home_folder_is_meant_by_a_tilde(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    MultiModalPredictor.load("~/copy").save("~/again")
    assert (folder.parent / "again" / "MANIFEST.json").exists()
