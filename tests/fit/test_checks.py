"""What a search is warned of or refused for before it starts."""

import pytest
from ray import tune

from automm_hpo.data.features import Features
from automm_hpo.errors import InvalidHyperparameter
from automm_hpo.fit.checks import check_training, idle_keys
from automm_hpo.fit.search_plan import plan_search
from automm_hpo.hpo.settings import TuneSettings
from automm_hpo.models import used_groups
from automm_hpo.problem import Problem

CLASSES, VALUES = Problem("label", "binary", ("no", "yes"), "object"), Problem("label", "regression")
TABLE = Features(numeric=("a", "b"))
LR = tune.loguniform(1e-4, 1e-2)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"optim.momentum": tune.uniform(0.5, 0.9)}, {"optim.momentum": "only sgd has it"}),
        ({"optim.momentum": tune.uniform(0.5, 0.9), "optim.optim_type": "sgd"}, {}),
        ({"optim.momentum": tune.uniform(0.5, 0.9), "optim.optim_type": tune.choice(["adamw", "sgd"])}, {}),
        ({"optim": tune.choice([{"optim_type": "sgd", "momentum": tune.uniform(0.5, 0.9)}, {"optim_type": "adamw"}])}, {}),
        ({"optim.momentum": tune.uniform(0.5, 0.9), "optim.optim_type": tune.sample_from(lambda config: "sgd")}, {}),
        ({"optim.beta2": tune.uniform(0.9, 0.99), "optim.optim_type": "sgd"}, {"optim.beta2": "sgd has none"}),
        ({"optim.lr_decay": tune.uniform(0.5, 0.9), "optim.lr_choice": "two_stages"}, {"optim.lr_decay": "optim.lr_choice is not 'layerwise_decay'"}),
        ({"optim.lr_mult": tune.uniform(1, 9), "optim.lr_choice": "two_stages"}, {}),
        ({"optim.gradient_clip_algorithm": tune.choice(["norm", "value"])}, {}),
        (
            {"optim.gradient_clip_algorithm": tune.choice(["norm", "value"]), "optim.gradient_clip_val": 0},
            {"optim.gradient_clip_algorithm": "optim.gradient_clip_val is 0"},
        ),
        ({"data.mixup.prob": tune.uniform(0, 1)}, {"data.mixup.prob": "data.mixup.turn_on is False"}),
        ({"model.ft_transformer.num_blocks": tune.choice([1, 2])}, {"model.ft_transformer.num_blocks": "ft_transformer is not used"}),
        ({"model.ft_transformer.num_blocks": tune.choice([1, 2]), "model.names": tune.choice([["real_mlp"], ["ft_transformer"]])}, {}),
        ({"model.fusion_mlp.dropout": tune.uniform(0, 0.5)}, {"model.fusion_mlp.dropout": "fusion_mlp is not used"}),
        ({"model.fusion_mlp.dropout": tune.uniform(0, 0.5), "model.names": ["real_mlp", "ft_transformer", "fusion_mlp"]}, {}),
        ({"model.real_mlp.dropout": tune.uniform(0, 0.5), "optim.lr": LR, "env.batch_size": tune.choice([8, 16])}, {}),
    ],
)
def test_what_is_searched_in_vain(given, expected):
    assert idle_keys(plan_search([given], {"searcher": "random"}), CLASSES, TABLE) == expected


@pytest.mark.parametrize(
    ("problem", "features", "expected"),
    [
        (CLASSES, Features(num_images=1), set()),
        (CLASSES, TABLE, {"optim.linear_probe", "optim.lr_decay"}),
        (VALUES, TABLE, {"optim.linear_probe", "optim.lr_decay", "optim.label_smoothing"}),
    ],
)
def test_what_is_searched_in_vain_by_what_the_table_has(problem, features, expected):
    given = {"optim.linear_probe": tune.choice(["on", "off"]), "optim.lr_decay": tune.uniform(0.5, 0.9), "optim.lr_choice": "layerwise_decay"}
    search = plan_search([given | {"optim.label_smoothing": tune.uniform(0, 0.2), "optim.lr": LR}], {"searcher": "random"})
    assert set(idle_keys(search, problem, features)) == expected


def test_batch_norm_of_one_row_is_refused():
    """The trial would fail with torch's message."""
    mlp = {"model.names": ["numerical_mlp"], "model.numerical_mlp.normalization": tune.choice(["none", "batch_norm"]), "env.batch_size": 1}
    with pytest.raises(InvalidHyperparameter, match=r"env\.batch_size: model\.numerical_mlp\.normalization='batch_norm' needs at least 2 rows"):
        check_training(plan_search([mlp], {"searcher": "random"}), CLASSES, TABLE)
    check_training(plan_search([mlp | {"env.batch_size": 2}], {"searcher": "random"}), CLASSES, TABLE)


def test_an_ensembles_trials_keep_their_weights_and_count():
    """Twice as many as it may have, to choose among them."""
    assert [TuneSettings().num_kept(size) for size in (1, 2, 10)] == [3, 4, 20]
    assert TuneSettings(keep_trials=2).num_kept(10) == 2


def test_what_brings_models_together_has_a_say_where_there_are_several():
    config = plan_search([{"model.names": ["real_mlp", "ft_transformer", "fusion_mlp"]}], None).config
    assert used_groups([config], TABLE) == {"real_mlp", "ft_transformer", "fusion_mlp"}
    assert "fusion_mlp" not in used_groups([plan_search([{}], None).config], TABLE)
