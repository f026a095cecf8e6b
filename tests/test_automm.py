"""Code written for AutoMM: the hyperparameters of its documentation page on customization, under AutoMM's names."""

import pytest

from automm_hpo import MultiModalPredictor
from automm_hpo.automm import ALIASES, ELSEWHERE, NO_EFFECT, WORDS, why_not
from automm_hpo.config import FIELDS, Config, resolve_keys, without_effect
from automm_hpo.errors import InvalidHyperparameter, Problems, UnknownHyperparameter
from automm_hpo.models import check_model, image_spec

DOCUMENTED = {  # default and examples from that page
    "optimization.learning_rate": (1e-4, 5e-4),
    "optimization.optim_type": ("adamw", "adam"),
    "optimization.weight_decay": (1e-3, 1e-4),
    "optimization.lr_decay": (0.9, 1),
    "optimization.lr_mult": (1, 10),
    "optimization.lr_choice": ("layerwise_decay", "two_stages"),
    "optimization.lr_schedule": ("cosine_decay", "polynomial_decay"),
    "optimization.max_epochs": (10, 20),
    "optimization.max_steps": (-1, 100),
    "optimization.warmup_steps": (0.1, 0.2),
    "optimization.patience": (10, 5),
    "optimization.val_check_interval": (0.5, 0.25, 50),
    "optimization.gradient_clip_algorithm": ("norm", "value"),
    "optimization.gradient_clip_val": (1, 5),
    "optimization.log_every_n_steps": (10, 50),
    "optimization.top_k": (3, 5),
    "optimization.top_k_average_method": ("greedy_soup", "uniform_soup"),
    "optimization.efficient_finetune": (None, "bit_fit", "norm_fit", "lora", "lora_bias", "lora_norm"),
    "optimization.skip_final_val": (False, True),
    "optimization.loss_func": ("auto", "nn.L1Loss", "SmoothL1Loss", "focal_loss"),
    "env.num_gpus": (-1,),
    "env.per_gpu_batch_size": (8, 16),
    "env.batch_size": (128, 256),
    "env.eval_batch_size_ratio": (4, 2),
    "env.precision": ("bf16", 32, 16, "16-mixed"),
    "env.num_workers": (2, 4),
    "env.num_workers_evaluation": (2, 4),
    "data.categorical.convert_to_text": (False,),
    "data.text.normalize_text": (False,),
    "data.numerical.scaler_with_mean": (True,),
    "data.mixup.mode": ("batch",),
    "model.hf_text.text_trivial_aug_maxscale": (0, 0.0),
    "model.hf_text.stochastic_chunk": (False,),
    "optimization.loss_function": ("auto",),
    "env.strategy": ("ddp_spawn", "ddp"),
    "model.names": (["hf_text", "timm_image", "categorical_mlp", "numerical_mlp", "fusion_mlp"], ["timm_image"]),
    "model.hf_text.checkpoint_name": ("google/electra-base-discriminator",),
    "model.hf_text.pooling_mode": ("cls", "mean"),
    "model.hf_text.tokenizer_name": ("hf_auto", "electra"),
    "model.hf_text.max_text_len": (512, -1, "-1"),
    "model.hf_text.text_segment_num": (2, 1),
    "model.hf_text.gradient_checkpointing": (False, True),
    "model.timm_image.checkpoint_name": ("swin_base_patch4_window7_224",),
    "model.timm_image.train_transforms": (
        ["resize_shorter_side", "center_crop", "trivial_augment"],
        ["random_resize_crop", "random_horizontal_flip"],
        "randaug",
    ),
    "model.timm_image.val_transforms": (["resize_shorter_side", "center_crop"], ["resize_to_square"]),
    "model.timm_image.max_img_num_per_col": (2,),
    "data.image.missing_value_strategy": ("zero", "skip"),
    "data.label.numerical_label_preprocessing": ("standardscaler", "minmaxscaler"),
    "data.pos_label": (None, "changed"),
    "data.mixup.turn_on": (False, True),
    "data.mixup.turn_off_epoch": (5, 7),
    "model.fusion_mlp.drop_rate": (0.1,),
    "model.ft_transformer.attention_n_heads": (8,),
}


def resolved(values):
    problems = Problems()
    found = resolve_keys(values, problems)
    problems.raise_any()
    return found


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in DOCUMENTED.items() for value in values], ids=str)
def test_what_its_documentation_shows_is_accepted(key, value):
    Config.from_flat(resolved({key: value}))


def test_a_name_is_one_of_three_kinds():
    """An alias of one of ours, without effect, or refused with an alternative."""
    assert set(ALIASES.values()) <= set(FIELDS)
    assert not {*ALIASES, *NO_EFFECT, *ELSEWHERE} & set(FIELDS)
    assert not set(NO_EFFECT) & set(ELSEWHERE)
    assert not set(WORDS) & {option for field in FIELDS.values() for option in field.options}


@pytest.mark.parametrize("key", NO_EFFECT)
def test_what_only_moves_its_trainer_is_left_out_and_told(key):
    assert resolved({key: 1, "optim.lr": 1}) == {"optim.lr": 1}
    assert without_effect({key: 1, "optim.lr": 1}) == {key: NO_EFFECT[key]}


@pytest.mark.parametrize("key", [*ELSEWHERE, "distiller.temperature", "model.clip.checkpoint_name"])
def test_what_would_learn_something_else_is_refused_with_a_way_out(key):
    with pytest.raises(UnknownHyperparameter, match="AutoMM's hyperparameter is not supported here; ") as caught:
        resolved({key: "something else"})
    assert why_not(key) in str(caught.value)


def test_pictures_become_squares_alike_in_training_and_validation():
    image = {"model.names": ["timm_image"], "model.timm_image.checkpoint_name": "test_resnet"}
    square = Config.from_flat(image | {"model.timm_image.val_transforms": ["resize_to_square"]})
    assert image_spec(square).to_square
    assert not image_spec(Config.from_flat(image)).to_square
    check_model(square.with_overrides({"model.timm_image.train_transforms": ["resize_to_square", "affine", "random_vertical_flip"]}))
    with pytest.raises(InvalidHyperparameter, match=r"'center_crop', and model\.timm_image\.val_transforms is 'resize_to_square'"):
        check_model(square.with_overrides({"model.timm_image.train_transforms": ["center_crop"]}))


def test_what_does_nothing_here_is_said(small, here, fast, capsys):
    hyperparameters = fast | {"env.strategy": "ddp", "optim": {"log_every_n_steps": 5}, "optim.top_k": 1}
    predictor = MultiModalPredictor("label", verbosity=1).fit(small[0], hyperparameters=hyperparameters, save_path="run", tracking=None, max_num_tuning_data=9)
    out = capsys.readouterr().out
    assert "max_num_tuning_data (there is no tuning_data)" in " ".join(out.split())
    assert "of no effect here: env.strategy (a trial trains in one process), optim.log_every_n_steps (a trial logs at each validation)" in " ".join(out.split())
    assert "soup" not in predictor.fit_summary()  # a single epoch gives no soup
    assert len(list((here / "run/search/trials/0000/checkpoints").iterdir())) == 1
