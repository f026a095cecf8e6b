"""Defaults and presets: their values on each occasion are valid, and the user's values win."""

import functools
import itertools

import pandas as pd
import pytest

from automm_hpo import MultiModalPredictor, space
from automm_hpo.config import FIELDS, Config
from automm_hpo.errors import InvalidArgument
from automm_hpo.fit.call import FitCall, plan_fit
from automm_hpo.fit.plan import Target
from automm_hpo.fit.search_plan import plan_search
from automm_hpo.hpo.hyperparameter_space import split_hyperparameters
from automm_hpo.models import MODELS, check_model
from automm_hpo.presets import PRESETS, TEXT_MODELS, Occasion, check_preset, default_hyperparameters, is_searching, join_tune_kwargs, resolve_preset

OCCASIONS = [
    Occasion(models, pretrained and bool({"timm_image", "hf_text"} & set(models)), num_rows, problem_type, device)
    for models, pretrained, num_rows, problem_type, device in itertools.product(
        [("real_mlp",), ("ft_transformer",), ("numerical_mlp", "categorical_mlp"), ("timm_image",), ("hf_text",), ("timm_image", "hf_text", "real_mlp")],
        [True, False],
        [50, 1_000_000],
        ["binary", "regression"],
        ["cpu", "cuda"],
    )
]


@pytest.mark.parametrize("name", [None, *PRESETS])
def test_every_preset_is_valid_on_every_occasion(name):
    distinct = []
    for occasion in OCCASIONS:
        preset = resolve_preset(name, occasion)
        if preset not in distinct:
            distinct.append(preset)
            fixed, searched = split_hyperparameters(preset.hyperparameters)  # checks both ends and every option
            assert bool(searched) == bool(preset.tune_kwargs) == is_searching(name)
            Config.from_flat(fixed)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_named_image_models_exist_and_have_published_weights(name, device):
    import timm

    checkpoint = resolve_preset(name, Occasion(("timm_image",), True, 1_000, "binary", device)).hyperparameters["model.timm_image.checkpoint_name"]
    check_model(Config.from_flat({"model.names": ["timm_image"], "model.timm_image.checkpoint_name": checkpoint}))
    assert timm.list_pretrained(f"{checkpoint}*")


@pytest.mark.parametrize(("device", "pooling"), [("cpu", None), ("cuda", "cls")])
def test_texts_are_pooled_as_their_encoder_was_published(device, pooling):
    for name in ("best_quality", "best_quality_hpo"):
        found = resolve_preset(name, Occasion(("hf_text",), True, 1_000, "binary", device)).hyperparameters
        assert (found["model.hf_text.checkpoint_name"].startswith("BAAI/bge"), found.get("model.hf_text.pooling_mode")) == (device == "cuda", pooling)


def test_another_encoder_is_not_pooled_as_the_presets_own(table, here, reader_folder, monkeypatch):
    monkeypatch.setattr("automm_hpo.presets.POOLED_BY_FIRST_TOKEN", tuple(TEXT_MODELS["best_quality"].values()))
    rows = table.assign(words=[f"a good bag, number {row}" for row in range(len(table))])
    call = FitCall(presets="best_quality", hyperparameters={"model.hf_text.checkpoint_name": reader_folder})
    assert plan_fit(call, Target("label", None, None, None), (), rows, None).search.config.model.hf_text.pooling_mode == "mean"


def test_defaults_follow_the_models():
    assert MODELS.keys() >= {model for occasion in OCCASIONS for model in occasion.models}
    table = default_hyperparameters(Occasion(("real_mlp",), False, 3_000, "regression", "cpu"))
    assert (table["optim.lr_schedule"], table["model.real_mlp.activation"]) == ("coslog4", "mish")
    pretrained = default_hyperparameters(Occasion(("timm_image", "real_mlp"), True, 3_000, "binary", "cpu"))
    assert (pretrained["optim.lr"], pretrained["optim.lr_choice"]) == (1e-4, "layerwise_decay")
    assert default_hyperparameters(Occasion(("timm_image",), False, 3_000, "binary", "cpu"))["optim.lr"] == 1e-3


def test_defaults_follow_the_number_of_rows():
    for models, pretrained in ((("real_mlp",), False), (("timm_image",), True)):
        found = [default_hyperparameters(Occasion(models, pretrained, num_rows, "binary", "cpu")) for num_rows in (100, 2_000, 1_000_000)]
        assert [one["env.batch_size"] for one in found] == sorted(one["env.batch_size"] for one in found)
        assert [one["optim.max_epochs"] for one in found] == sorted((one["optim.max_epochs"] for one in found), reverse=True)
    assert [
        default_hyperparameters(Occasion(("timm_image",), True, num_rows, "binary", "cpu"))["model.timm_image.frozen_norm_stats"] for num_rows in (500, 50_000)
    ] == [True, False]


def test_encoders_of_text_are_tuned_briefly():
    kinds = (("hf_text",), ("timm_image",), ("timm_image", "hf_text"))
    text, pictures, both = (default_hyperparameters(Occasion(models, True, 5_000, "binary", "cpu")) for models in kinds)
    assert text["optim.max_epochs"] == both["optim.max_epochs"] < pictures["optim.max_epochs"]


@pytest.mark.parametrize(("given", "suggestion"), [("best", "best_quality"), ("High_Quality", "high_quality"), (5, "medium_quality"), (["x"], "got")])
def test_unknown_presets_are_refused(given, suggestion):
    with pytest.raises(InvalidArgument, match=f"presets: expected one of .*{suggestion}"):
        check_preset(given)


def test_tune_kwargs_of_the_user_win():
    preset = resolve_preset("high_quality_hpo", OCCASIONS[0])
    assert join_tune_kwargs(preset, None)["num_trials"] == 20
    assert join_tune_kwargs(preset, {"num_trials": 3}) == {**preset.tune_kwargs, "num_trials": 3}
    assert join_tune_kwargs(preset, "random")["searcher"] == "random"
    assert join_tune_kwargs(resolve_preset(None, OCCASIONS[0]), {"num_trials": 3}) == {"num_trials": 3}
    assert join_tune_kwargs(preset, "nonsense") == "nonsense"  # refused later, when it is parsed


@pytest.fixture
def table():
    import numpy as np
    import pandas as pd

    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.normal(size=120), "b": rng.normal(size=120), "c": rng.choice(["x", "y", "z"], 120)})
    return frame.assign(label=np.where(frame["a"] + (frame["c"] == "x") > 0.3, "yes", "no"))


def test_the_users_values_win_over_the_defaults(table, here):
    predictor = MultiModalPredictor("label", verbosity=0, hyperparameters={"optim.lr_schedule": "constant"})
    predictor.fit(table, tracking=None, hyperparameters={"optim.max_epochs": 2, "model.real_mlp.hidden_size": 16})
    config = predictor._artifact.config
    assert (config.optim.lr_schedule, config.optim.max_epochs, config.model.real_mlp.hidden_size) == ("constant", 2, 16)
    assert (config.optim.lr, config.optim.beta2, config.env.batch_size) == (1e-3, 0.95, 32)
    assert config.flat().keys() == FIELDS.keys()


@pytest.mark.parametrize("where", ["predictor", "fit"])
def test_a_preset_is_used_wherever_it_is_named(where, table, here):
    named = {"presets": "medium_quality"}
    predictor = MultiModalPredictor("label", verbosity=0, **(named if where == "predictor" else {}))
    predictor.fit(table, tracking=None, hyperparameters={"optim.max_epochs": 1}, **(named if where == "fit" else {}))
    assert predictor._artifact.config.model.real_mlp.num_members == 4


@pytest.mark.slow
def test_a_preset_searches_its_own_space_and_what_the_user_fixes_is_fixed(table, here, ray_session):
    given = {"optim.max_epochs": 2, "model.real_mlp.hidden_size": 16, "optim.lr": space.loguniform(1e-3, 2e-3)}
    predictor = MultiModalPredictor("label", verbosity=0).fit(
        table, presets="medium_quality_hpo", tracking=None, hyperparameters=given, hyperparameter_tune_kwargs={"num_trials": 2}
    )
    board = predictor.leaderboard()
    assert len(board) == 2
    assert "model.real_mlp.dropout" in board
    assert "model.real_mlp.hidden_size" not in board
    assert board["optim.lr"].between(1e-3, 2e-3).all()


def planned(table, **call) -> int:
    return plan_fit(FitCall(save_path="run", **call), Target("label", None, None, None), (), table, None).ensemble_size


@pytest.mark.parametrize(
    ("call", "size"),
    [
        ({}, 4),
        ({"ensemble_size": 1}, 1),
        ({"ensemble_size": 2}, 2),
        ({"refit": True}, 1),
        ({"hyperparameter_tune_kwargs": {"keep_trials": 3}}, 3),
        ({"presets": "medium_quality"}, 1),
        ({"presets": None}, 1),
    ],
)
def test_searched_tables_are_predicted_by_several_trials(table, here, call, size):
    assert planned(table, **{"presets": "medium_quality_hpo"} | call) == size


def test_a_searching_preset_of_a_table_makes_an_ensemble(table, here):
    """Chosen among all trials, whose weights are kept."""
    given = {"optim.max_epochs": 3, "model.real_mlp.hidden_size": 16}
    fit = functools.partial(
        MultiModalPredictor("label", verbosity=0).fit,
        table,
        presets="medium_quality_hpo",
        save_path="run",
        tracking=None,
        hyperparameters=given,
        hyperparameter_tune_kwargs={"num_trials": 5},
    )
    predictor = fit()
    ensemble = predictor.fit_summary()["ensemble"]
    assert ensemble["selected_by"] == "log_loss"
    assert len(predictor._artifact.members) == len(ensemble["members"]) <= 4
    assert all(predictor.search.checkpoint(number) for number in range(5))
    assert MultiModalPredictor.load("run", resume=True).fit(table).fit_summary() == fit().fit_summary() == predictor.fit_summary()


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] if name.endswith("_hpo") else []) for name in PRESETS])
def test_every_preset_runs_on_pictures_text_and_numbers_together(name, small, reader_folder, here, ray_session):
    """Only its backbones, which would have to be downloaded, are replaced."""
    import timm
    from safetensors.torch import save_file

    save_file(timm.create_model("test_resnet").state_dict(), here / "weights.safetensors")
    table = small[0].head(60).assign(title=["a red boot", "the very good bag", "this is blue"] * 20, price=range(60))
    predictor = MultiModalPredictor("label", verbosity=0).fit(
        table,
        presets=name,
        tracking=None,
        column_types={"title": "text"},
        hyperparameters={
            "model.timm_image.checkpoint_name": "test_resnet",
            "model.timm_image.checkpoint_path": str(here / "weights.safetensors"),
            "model.timm_image.image_size": 32,
            "model.hf_text.checkpoint_name": reader_folder,
            "optim.max_epochs": 1,
        },
        hyperparameter_tune_kwargs={"num_trials": 2} if name.endswith("_hpo") else None,
    )
    assert len(predictor.leaderboard()) == (2 if name.endswith("_hpo") else 1)
    assert set(predictor.predict(table.drop(columns="label"))) <= set(table["label"])


@pytest.mark.parametrize("given", [{"presets": "medium_quality_hpo"}, {"hyperparameters": {"optim.lr": space.loguniform(1e-4, 1e-2)}}])
def test_a_search_begins_with_the_defaults_of_the_data(given):
    """Not with the fields' own defaults: a learning rate of 1e-4 does not suit a table."""
    table = pd.DataFrame({"x": range(60), "y": [row % 3 for row in range(60)]})
    plan = MultiModalPredictor("y").plan(table, hyperparameter_tune_kwargs={"num_trials": 1}, **given)
    assert plan.trials["optim.lr"].tolist() == [1e-3]
    assert given.get("presets") is None or plan.trials["model.real_mlp.dropout"].tolist() == [0.15]


@pytest.mark.parametrize("number", [1, 2], ids=["all branches tune it", "one does not"])
def test_the_defaults_of_the_data_hold_within_branches(number):
    """The first trial has them, and so does every trial whose branch lacks the hyperparameter."""
    table = pd.DataFrame({"x": range(60), "y": [row % 3 for row in range(60)]})
    tuned = {"lr": space.loguniform(1e-4, 1e-2)}
    branches = space.choice([{"optim_type": "adamw"} | (tuned if number == 1 else {}), {"optim_type": "sgd"} | tuned])
    predictor, kwargs = MultiModalPredictor("y"), {"num_trials": 4, "searcher": "random", "scheduler": "FIFO"}
    plan = predictor.plan(table, hyperparameters={"optim": branches}, hyperparameter_tune_kwargs=kwargs)
    first = plan.trials.iloc[0]
    assert first["optim.optim_type"] == "adamw"
    assert number == 2 or first["optim.lr"] == 1e-3
    search = plan_search(({"optim.lr": 1e-3}, {"optim": branches}), kwargs)
    assert number == 1 or search.config.with_overrides({"optim.optim_type": "adamw"}).optim.lr == 1e-3


def test_a_fitted_head_learns_at_the_backbones_rate():
    """A head that starts from random weights learns ten times faster."""
    occasions = [Occasion(("timm_image",), True, 1_000, "binary", "cpu", is_probed) for is_probed in (True, False)]
    assert [default_hyperparameters(occasion)["optim.lr_mult"] for occasion in occasions] == [1.0, 10.0]
