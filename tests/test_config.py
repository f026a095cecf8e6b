"""Hyperparameters: names, values, errors, and the round trip through a config."""

import json

import numpy as np
import pytest
from pydantic import ValidationError

from automm_hpo.config import ALIASES, FIELDS, GROUPS, Config, canonical_key, check_value, resolve_keys
from automm_hpo.errors import AutoMMHPOError, InvalidHyperparameter, InvalidInput, Problems, UnknownHyperparameter
from automm_hpo.sections import Mark

NUMBERS = [key for key, field in FIELDS.items() if any(word in field.expected for word in ("integer", "float")) and "list" not in field.expected]
INTEGERS = [key for key in NUMBERS if "integer" in FIELDS[key].expected]
WORDS = [key for key, field in FIELDS.items() if field.options and "a list" not in field.expected and "True" not in field.expected]
LISTS = [key for key, field in FIELDS.items() if "a list among" in field.expected]
FLAGS = [key for key, field in FIELDS.items() if field.expected == "True or False"]
RANGES = {  # lowest and highest value (None: open or unbounded), values that are refused
    "optim.lr": (None, None, (0, -1, "-1e-3")),
    "optim.weight_decay": (0, None, (-1e-9,)),
    "optim.momentum": (0, None, (1, 1.5, -0.1)),
    "optim.warmup_steps": (0, None, (1, -0.1)),
    "optim.val_check_interval": (None, 1, (0, 1.01)),
    "optim.max_epochs": (1, None, (0, -5, 2.5, "ten", "2.5")),
    "optim.max_steps": (-1, None, (0, -2)),
    "optim.gradient_clip_val": (0, None, (-1,)),
    "model.timm_image.image_size": (8, 4096, (7, 4097, "large", 32.5)),
    "model.timm_image.drop_rate": (0, None, (1, -0.1)),
    "env.batch_size": (1, None, (0,)),
    "env.num_gpus": (-1, None, (-2, 0.5)),
    "env.num_workers": (0, None, (-1,)),
}


def resolve(hyperparameters):
    problems = Problems()
    resolved = resolve_keys(hyperparameters, problems)
    problems.raise_any()
    return resolved


@pytest.mark.parametrize("key", FIELDS)
def test_every_field_is_documented_says_what_it_expects_and_keeps_its_default(key):
    field = FIELDS[key]
    assert len(field.description) > 10
    assert field.expected
    assert check_value(key, field.default) == field.default


def test_an_empty_config_has_the_defaults():
    assert Config.from_flat({}) == Config()
    assert Config().flat() == {key: list(field.default) if isinstance(field.default, tuple) else field.default for key, field in FIELDS.items()}
    assert Config().optim.lr == Config().flat()["optim.lr"] == 1e-4


@pytest.mark.parametrize("key", NUMBERS)
def test_numbers_take_numeric_strings_and_numpy_scalars_and_nothing_else(key):
    for value in (
        ("0.5", np.float32(0.5), np.float64(0.5), np.array(0.5), 0.5) if key not in INTEGERS else ("10", "1e1", "10.0", np.int64(10), np.int8(10), 10.0)
    ):
        stored = check_value(key, value)
        assert type(stored) is (int if key in INTEGERS else float)
        assert stored == float(value)
    for value in (
        True,
        np.True_,
        b"1",
        [1],
        {1},
        {},
        np.array([1.0]),
        1 + 0j,
        "",
        "abc",
        "nan",
        "1,5",
        float("nan"),
        float("inf"),
        "-inf",
        object(),
    ):
        with pytest.raises(InvalidHyperparameter, match=f"^{key}: expected .*, got "):
            check_value(key, value)


@pytest.mark.parametrize("key", RANGES)
def test_ranges(key):
    low, high, refused = RANGES[key]
    for end in (low, high):
        assert end is None or check_value(key, end) == end
    for value in refused:
        with pytest.raises(InvalidHyperparameter, match=f"^{key}: expected") as caught:
            check_value(key, value)
        assert FIELDS[key].expected in str(caught.value)
        assert repr(value) in str(caught.value)


def test_none_is_a_value_where_the_field_says_so_only():
    assert "None" in FIELDS["model.timm_image.image_size"].expected
    for key, field in FIELDS.items():
        if "None" in field.expected:
            assert check_value(key, None) is None
        else:
            with pytest.raises(InvalidHyperparameter):
                check_value(key, None)


@pytest.mark.parametrize("key", WORDS)
def test_words_come_from_a_list_and_the_nearest_is_named(key):
    for option in FIELDS[key].options:
        assert check_value(key, np.str_(option)) == option
        if not option:
            continue  # an empty option has no near misspelling
        with pytest.raises(InvalidHyperparameter, match=f"{option!r}.*Did you mean .*{option}"):
            check_value(key, option + "x")
    for value in (5, True, [], {}, {1}, np.zeros(2), b"auto", object(), *([] if "None" in FIELDS[key].expected else [None])):
        with pytest.raises(InvalidHyperparameter, match=f"^{key}: expected one of"):
            check_value(key, value)


@pytest.mark.parametrize("key", LISTS)
def test_lists_of_words(key):
    first = FIELDS[key].options[0]
    assert check_value(key, [first]) == check_value(key, (first,)) == check_value(key, np.array([first])) == check_value(key, first) == (first,)
    for value in ([first, first], [5], [[first]], None, 5, {first: 1}):
        with pytest.raises(InvalidHyperparameter, match=f"^{key}: expected a list among"):
            check_value(key, value)
    with pytest.raises(InvalidHyperparameter, match=f"Did you mean {first}"):
        check_value(key, [first[:-1]])


def test_a_flag_that_may_be_left_to_us():
    for value in ("auto", True, False, np.True_):
        assert check_value("env.compile.turn_on", value) == value
    for value in ("on", 1, None, []):
        with pytest.raises(InvalidHyperparameter, match=r"^env\.compile\.turn_on: expected True, False or 'auto'"):
            check_value("env.compile.turn_on", value)


@pytest.mark.parametrize("key", FLAGS)
def test_flags(key):
    assert check_value(key, np.False_) is False
    assert check_value(key, True) is True
    for value in (1, 0, "True", "yes", None, []):
        with pytest.raises(InvalidHyperparameter, match="expected True or False"):
            check_value(key, value)


@pytest.mark.parametrize("value", [32, "32", "32-true", np.int64(32)])
def test_precision_takes_the_spellings_of_automm(value):
    assert check_value("env.precision", value) == "32"


@pytest.mark.parametrize("value", ["/data/a=b: c", "${oc.env:HOME}", "None", "null", "~/x", " ", "1e-3", "true", "ключ"])
def test_strings_are_taken_literally(value):
    config = Config.from_flat({"model.timm_image.checkpoint_path": value, "model.timm_image.checkpoint_name": value})
    assert config.model.timm_image.checkpoint_path == config.model.timm_image.checkpoint_name == value


@pytest.mark.parametrize("old", [*ALIASES, *(f"optimization.{key.removeprefix('optim.')}" for key in FIELDS if key.startswith("optim."))])
def test_old_names(old):
    new = canonical_key(old)
    assert new in FIELDS
    assert old not in FIELDS
    assert resolve({old: 5}) == {new: 5}


def test_old_names_combine():
    assert resolve({"env.num_workers": 2, "env.num_workers_evaluation": 4}) == {"env.num_workers": 2}  # AutoMM has one for training and one for evaluation
    assert resolve({"optimization.learning_rate": 1}) == resolve({"optimization": {"learning_rate": 1}}) == {"optim.lr": 1}


def test_groups_may_be_dicts_at_any_depth():
    nested = {"model": {"timm_image": {"image_size": 1}, "timm_image.drop_rate": 2}, "data.image": {"missing_value_strategy": 3}, "optim": {}}
    assert resolve(nested) == {"model.timm_image.image_size": 1, "model.timm_image.drop_rate": 2, "data.image.missing_value_strategy": 3}


@pytest.mark.parametrize(
    ("hyperparameters", "named"),
    [
        ({"optim": {"lr": 1}, "optim.lr": 1}, ["optim.lr: is given twice"]),
        ({"optim.lr": 1, "optimization.lr": 2}, ["optim.lr and optimization.lr"]),
        ({"optimization.learning_rate": 1, "optim.learning_rate": 2}, ["optimization.learning_rate and optim.learning_rate", "(optim.lr)"]),
        ({"optim": {"lr": 1, "learning_rate": 2}}, ["optim.lr and optim.learning_rate"]),
        ({"optim": {"lr": 1}, "optimization": {"lr": 2}}, ["optim.lr and optimization.lr"]),
        ({"model": {"timm_image.drop_rate": 0, "timm_image": {"drop_rate": 0}}}, ["model.timm_image.drop_rate: is given twice"]),
    ],
)
def test_one_key_given_twice_is_a_conflict_that_names_both(hyperparameters, named):
    with pytest.raises(InvalidHyperparameter) as caught:
        resolve(hyperparameters)
    assert all(words in str(caught.value) for words in [*named, "give one of them"])


@pytest.mark.parametrize(
    ("key", "suggestion"),
    [
        ("optim.learning_rat", "optim.lr"),
        ("lr", "optim.lr"),
        ("learning_rate", "optim.lr"),
        ("Optim.LR", "optim.lr"),
        ("max_epoch", "optim.max_epochs"),
        ("optim.max_epoch", "optim.max_epochs"),
        ("optimization.max_epoch", "optim.max_epochs"),
        ("optimizer.lr", "optim.lr"),
        ("model.timm_image.checkpoint", "model.timm_image.checkpoint_name"),
        ("checkpoint_name", "model.timm_image.checkpoint_name"),
        ("env.batchsize", "env.batch_size"),
        ("optim.lr.x", "optim.lr"),
        ("zzz", "model, data, optim, env"),
        ("", "model, data, optim, env"),
        (5, "model, data, optim, env"),
        (None, "model, data, optim, env"),
    ],
)
def test_unknown_keys_come_with_a_suggestion(key, suggestion):
    with pytest.raises(UnknownHyperparameter) as caught:
        resolve({key: 1})
    assert str(caught.value).startswith(f"{key}: unknown hyperparameter.")
    assert suggestion in str(caught.value)


def test_unknown_keys_inside_a_group_are_named_whole():
    with pytest.raises(UnknownHyperparameter, match=r"^optim\.lrr: .*optim\.lr\?"):
        resolve({"optim": {"lrr": 1}})
    with pytest.raises(UnknownHyperparameter, match=r"^optim\.1: "):
        resolve({"optim": {1: 2}})


@pytest.mark.parametrize("value", [5, "abc", ["optim.lr"], [("optim.lr", 1)], {"optim.lr"}, None])
def test_hyperparameters_must_be_a_dict(value):
    with pytest.raises(InvalidHyperparameter, match=r"^hyperparameters: expected a dict"):
        resolve(value)


def test_all_problems_are_reported_together():
    with pytest.raises(InvalidInput) as caught:
        resolve({"lr": 1, "optim": {"lrr": 2, "lr": 1}, "optim.lr": 3, "data": {}})
    assert len(caught.value.problems) == 3
    with pytest.raises(InvalidInput) as caught:
        Config.from_flat({"optim.lr": -1, "optim.max_epochs": "ten", "optim.lrr": 1, "env.batch_size": 8})
    assert [str(problem).split(":")[0] for problem in caught.value.problems] == ["optim.lr", "optim.max_epochs", "optim.lrr"]


def test_flat_survives_json():
    given = {
        "optim.lr": np.float32(0.25),
        "optim.max_epochs": "1e1",
        "env.precision": 32,
        "model.timm_image.checkpoint_name": np.str_("resnet18"),
        "model.timm_image.train_transforms": ["random_crop"],
        "model.timm_image.image_size": None,
    }
    config = Config.from_flat(given)
    flat = json.loads(json.dumps(config.flat(), allow_nan=False))
    assert flat == config.flat()
    assert list(flat) == list(FIELDS)
    assert Config.from_flat(flat) == config
    assert (flat["optim.lr"], flat["optim.max_epochs"], flat["env.precision"]) == (0.25, 10, "32")


def test_overrides_are_validated_and_leave_the_original():
    config = Config()
    changed = config.with_overrides({"optim.lr": "0.5"})
    assert (changed.optim.lr, config.optim.lr) == (0.5, 1e-4)
    assert changed.with_overrides({"optim.lr": 1e-4}) == config
    with pytest.raises(InvalidHyperparameter, match=r"^optim\.lr: "):
        config.with_overrides({"optim.lr": 0})
    with pytest.raises(UnknownHyperparameter, match=r"^optim\.lrr: "):
        config.with_overrides({"optim.lrr": 1})


def test_a_config_is_frozen_and_takes_nothing_extra():
    config = Config()
    with pytest.raises(ValidationError, match="frozen"):
        config.optim.lr = 1.0
    with pytest.raises(ValidationError, match="frozen"):
        config.optim = Config().optim
    with pytest.raises(ValidationError, match="extra"):
        Config(optimizer={})
    assert hash(config) == hash(Config())


def test_groups_and_live_keys():
    assert {"model", "model.timm_image", "data", "data.image", "optim", "env"} <= GROUPS
    assert not GROUPS & FIELDS.keys()
    assert {key for key in ("optim.lr", "optim.optim_type", "optim.max_epochs", "optim.weight_decay") if Mark.LIVE in FIELDS[key].marks} == {
        "optim.lr",
        "optim.weight_decay",
    }


@pytest.mark.parametrize("error", [UnknownHyperparameter, InvalidHyperparameter])
def test_the_errors_are_value_errors(error):
    assert issubclass(error, AutoMMHPOError)
    assert issubclass(error, ValueError)
