"""AutoMM's hyperparameter names that differ from ours: aliases, names without effect here, and names whose purpose is served another way."""

from __future__ import annotations

from typing import Any

from .sections import unwrapped

# In addition, every `optimization.X` is an alias of `optim.X` (`config.canonical_key`).
ALIASES = {
    "optim.learning_rate": "optim.lr",
    "optim.efficient_finetune": "optim.peft",
    "env.eval_batch_size_ratio": "env.inference_batch_size_ratio",
    "optim.loss_function": "optim.loss_func",
    "data.modality_dropout": "model.fusion_mlp.modality_dropout",
    "data.label.numerical_label_preprocessing": "data.label.numerical_preprocessing",
    "model.timm_image.max_img_num_per_col": "model.timm_image.max_image_num_per_column",
    "model.numerical_mlp.drop_rate": "model.numerical_mlp.dropout",
    "model.categorical_mlp.drop_rate": "model.categorical_mlp.dropout",
    "model.fusion_mlp.drop_rate": "model.fusion_mlp.dropout",
    "model.fusion_mlp.weight": "model.fusion_mlp.aux_loss_weight",
    "model.ft_transformer.d_token": "model.ft_transformer.token_dim",
    "model.ft_transformer.n_blocks": "model.ft_transformer.num_blocks",
    "model.ft_transformer.attention_n_heads": "model.ft_transformer.attention_num_heads",
    "model.ft_transformer.ffn_d_hidden": "model.ft_transformer.ffn_hidden_size",
}

WORDS = {  # AutoMM's words for values -> ours
    "random_resize_crop": "random_resized_crop",
    "randaug": "rand_augment",
    "MSELoss": "mse",
    "L1Loss": "mae",
    "HuberLoss": "huber",
    "SmoothL1Loss": "huber",  # the same as huber with torch's defaults
    "CrossEntropyLoss": "cross_entropy",
}

# these affect how AutoMM's trainer runs, not what it learns: accepted, and reported to have no effect -> why
NO_EFFECT = {
    "optim.log_every_n_steps": "a trial logs at each validation",
    "optim.check_val_every_n_epoch": "each epoch is validated",
    "optim.skip_final_val": "what is kept has been validated",
    "optim.track_grad_norm": "",
    "optim.automatic_optimization": "",
    "env.num_workers_evaluation": "env.num_workers decode for all",
    "env.num_workers_inference": "env.num_workers decode for all",
    "env.num_nodes": "a search uses the nodes of the Ray cluster it runs on",
    "env.strategy": "a trial trains in one process",
    "env.auto_select_gpus": "Ray gives trials their GPUs",
    "env.compile.dynamic": "",
    "model.hf_text.tokenizer_name": "the checkpoint's own tokenizer is used",
    "model.hf_text.use_fast": "",
    "model.hf_text.low_cpu_mem_usage": "",
    "model.hf_text.text_segment_num": "a row's texts are one segment",
    "model.timm_image.image_norm": "pictures are normalised as the checkpoint's own were",
    "model.timm_image.mix_choice": "",
    **{f"model.{name}.data_types": "" for name in ("timm_image", "hf_text", "numerical_mlp", "categorical_mlp", "ft_transformer", "fusion_mlp")},
}

# these affect what is learned, so they are refused -> what to do instead, and the values that are accepted because they describe what is done here
ELSEWHERE: dict[str, tuple[str, tuple[object, ...]]] = {
    "optim.val_metric": ("here that is validation_metric, an argument of MultiModalPredictor", ()),
    "optim.focal_loss.alpha": ("here that is optim.class_weights", (None,)),
    "optim.extra_trainable_params": ("see optim.peft and model.hf_text.trainable", (None, [])),
    "optim.lora.filter": ("all linear layers of pretrained backbones are adapted", (None, [])),
    "optim.lora.module_filter": ("all linear layers of pretrained backbones are adapted", (None, [])),
    "env.fast_dev_run": ("optim.max_steps=1 does it", (False,)),
    "data.categorical.convert_to_text": ("column_types={column: 'text'} does it", (False,)),
    "data.numerical.convert_to_text": ("column_types={column: 'text'} does it", (False,)),
    "data.numerical.scaler_with_mean": ("see data.numerical.scaling", (True,)),
    "data.numerical.scaler_with_std": ("see data.numerical.scaling", (True,)),
    "data.text.normalize_text": ("fix the text encoding in the table", (False,)),
    "data.mixup.cutmix_minmax": ("see data.mixup.cutmix_alpha", (None,)),
    "data.mixup.mode": ("a batch is mixed in pairs, by one share", ("batch",)),
    "model.hf_text.insert_sep": ("a row's texts are joined, each behind its column's name", ()),
    "model.hf_text.stochastic_chunk": ("both ends of a long text are kept (model.hf_text.max_text_len)", (False,)),
    "model.hf_text.text_trivial_aug_maxscale": ("texts are not augmented here", (0,)),
    "model.hf_text.text_train_augment_types": ("texts are not augmented here", (None, [])),
    "model.numerical_mlp.d_token": ("'real_mlp' among model.names embeds numbers", ()),
    "model.numerical_mlp.token_dim": ("'real_mlp' among model.names embeds numbers", ()),
    "model.numerical_mlp.embedding_arch": ("'real_mlp' among model.names embeds numbers", ()),
    "model.categorical_mlp.token_dim": ("here that is model.categorical_mlp.max_embedding_dim", ()),
    "optim.focal_loss.reduction": ("the mean is taken", ("mean",)),
}
NOT_HERE = ("distiller", "matcher", "optim.lemda", "data.templates", "model.clip", "model.fusion_transformer", "model.t_few", "model.document_transformer")
"""Groups that are refused by name."""


def is_left_out(key: str, value: object) -> bool:
    """Whether an AutoMM hyperparameter changes nothing here, either with any value or with this one."""
    _, means_the_same = ELSEWHERE.get(key, ("", ()))
    return key in NO_EFFECT or any(value is same or (type(value) in (str, int, float, list) and value == same) for same in means_the_same)


def why_not(key: str) -> str:
    """What to do instead of setting an AutoMM hyperparameter; empty if the key is not known."""
    if group := next((group for group in NOT_HERE if key == group or key.startswith(f"{group}.")), None):
        return f"{group} is not covered here"
    return ELSEWHERE[key][0] if key in ELSEWHERE else ""


# ---------------------------------------------------------------------------------------- AutoMM's values -> ours

PRECISIONS = {"32": "32", "32.0": "32", "32-true": "32", "bf16": "bf16-mixed", "16": "16-mixed", "16.0": "16-mixed"}


def our_precision(value: Any) -> Any:
    return PRECISIONS.get(str(value), value)


def our_words(words: Any) -> Any:
    """A list of words, or a single word, as a list with AutoMM's spellings replaced by ours."""
    words = (words,) if isinstance(words, str) else words
    return [WORDS.get(word, word) if isinstance(word, str) else word for word in words] if isinstance(words, (list, tuple)) else words


def our_square(words: Any) -> Any:
    """AutoMM's list of transforms -> our single word."""
    known = {("resize_shorter_side", "center_crop"): "center_crop", ("resize_to_square",): "resize_to_square"}
    return known.get(tuple(words), words) if isinstance(words, (list, tuple)) and all(isinstance(word, str) for word in words) else words


def our_loss(name: Any) -> Any:
    """The name of torch's loss class, with or without ``nn.`` -> our name of the loss."""
    return WORDS.get(name.removeprefix("nn."), name) if isinstance(name, str) else name


def our_limit(value: Any) -> Any:
    """-1 and 0, which mean no limit -> None."""
    return None if str(unwrapped(value)) in ("-1", "0") else value
