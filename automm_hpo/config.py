"""The hyperparameters of one trial: a typed, frozen tree whose attribute path is the public dotted key.

To add a hyperparameter: a field here with its default, range, marks (``sections.py``) and docstring; its use; its test.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, BeforeValidator, Field, StrictBool, StrictFloat, StrictInt, StrictStr

from .automm import ALIASES, NO_EFFECT, is_left_out, our_limit, our_loss, our_precision, our_square, our_words, why_not
from .errors import InvalidHyperparameter, Problems, UnknownHyperparameter, nearest
from .sections import (
    Expected,
    Fixed,
    Flag,
    Fraction,
    ImageSize,
    LimitInt,
    Mark,
    NonNegativeFloat,
    NonNegativeInt,
    Number,
    PositiveFloat,
    PositiveInt,
    Section,
    Share,
    Text,
    fields_of,
    unwrapped,
)


def _distinct(values: tuple) -> tuple:
    if len(set(values)) != len(values):
        raise ValueError("listed twice")
    return values


def _fraction_or_count(value: float) -> float:
    if not (0 < value <= 1 or (value > 1 and value.is_integer())):
        raise ValueError("neither a fraction nor a count")
    return value


Dropout = Annotated[Fraction, Mark.LIVE, Mark.TRAINING]
Size = Annotated[PositiveInt, Mark.SIZE]
DECODED_ONCE = Fixed("the images are decoded once for all trials")
ENCODED_ONCE = Fixed("the table is encoded once for all trials")
MAX_PIXELS = 89_478_485  # Pillow's own bound of a plausible picture; beyond it one file can take gigabytes
Scaling = Literal["quantile", "standard", "robust"]
Trainable = Annotated[Literal["all", "head"], Mark.TRAINING]
Augmentation = Literal[
    "random_crop", "random_resized_crop", "random_horizontal_flip", "random_vertical_flip", "trivial_augment", "rand_augment", "color_jitter", "affine"
]
ToSquare = Literal["resize_shorter_side", "center_crop", "resize_to_square"]
ModelName = Literal["timm_image", "hf_text", "numerical_mlp", "categorical_mlp", "ft_transformer", "real_mlp", "fusion_mlp"]
Activation = Literal["relu", "leaky_relu", "gelu", "selu", "silu", "mish"]


class TimmImage(Section):
    checkpoint_name: Annotated[Text, Mark.BUILDING, Mark.DECODING] = "mobilenetv3_large_100"
    """Any model name of timm, with or without a pretrained tag; also ``hf-hub:owner/name`` and ``local-dir:path``."""
    checkpoint_path: Annotated[Text | None, Mark.BUILDING] = None
    """A local weights file (safetensors, or a state dict that ``weights_only`` reads) loaded instead of the hub's."""
    pretrained: Annotated[Flag, Mark.BUILDING] = True
    """Start from published weights. False starts from random ones and needs no network."""
    image_size: Annotated[ImageSize | None, Mark.BUILDING, Mark.DECODING] = None
    """Height and width that the model sees, pixels. None: the size its weights were published for."""
    max_image_num_per_column: Annotated[PositiveInt, DECODED_ONCE] = 1
    """Pictures of a cell that are read, the first ones; cells may have several: a list, or paths between semicolons. A row's features are the mean of
    those of its pictures. Rows with fewer cost as much as those with most."""
    train_transforms: Annotated[
        tuple[Augmentation | ToSquare, ...],
        BeforeValidator(our_words),
        AfterValidator(_distinct),
        Expected(f"a list among {', '.join(get_args(Augmentation))}"),
        Mark.TRAINING,
    ] = ("random_crop", "random_horizontal_flip")
    """Augmentations on the device: ``random_crop`` shifts the window, ``random_resized_crop`` cuts a third of the picture to all of it,
    ``random_horizontal_flip`` and ``random_vertical_flip`` mirror half; the others are torchvision's, of colours, turns and shears. How a picture
    becomes a square is said by ``val_transforms``; the words may stand here, too."""
    val_transforms: Annotated[Literal["center_crop", "resize_to_square"], BeforeValidator(our_square), DECODED_ONCE] = "center_crop"
    """How a picture becomes a square, in training, too. ``center_crop`` (for AutoMM ``['resize_shorter_side', 'center_crop']``): what is at the ends
    of its longer side is cut off. ``resize_to_square``: all of it is seen, out of proportion."""
    drop_rate: Dropout = 0.0
    """Dropout before the head."""
    drop_path_rate: Annotated[Fraction, Mark.BUILDING, Mark.TRAINING] = 0.0
    """Stochastic depth, for the models that have it."""
    trainable: Trainable = "all"
    """``head``: the backbone stays as it was published, and only what is built on it learns."""
    frozen_norm_stats: Annotated[Flag, Mark.TRAINING] = False
    """Batch norm keeps the means and variances it was published with. Small data estimates them badly, and pays for it with the
    features. Where no published weights are loaded there are none to keep, and this does nothing."""

    @property
    def is_pretrained(self) -> bool:
        """Whether it begins from published weights, or from those of a file."""
        return self.pretrained or self.checkpoint_path is not None


class HfText(Section):
    checkpoint_name: Annotated[Text, Mark.BUILDING, Mark.TOKENS] = "sentence-transformers/all-MiniLM-L6-v2"
    """A hub repository or a local folder with a text encoder of the transformers library; its code is never run, only its weights are read."""
    pretrained: Annotated[Flag, Mark.BUILDING] = True
    """Start from published weights. False starts from random ones; the repository's or folder's config.json is read nevertheless."""
    max_text_len: Annotated[PositiveInt | None, BeforeValidator(our_limit), Mark.BUILDING, Mark.TOKENS] = 256
    """Tokens of a row; of longer texts both ends are kept, half of each. Never more than the model takes; None, or -1: as many as it takes."""
    pooling_mode: Literal["cls", "mean"] = "mean"
    """What stands for a text: its first token's state, or the mean of all."""
    dropout: Dropout = 0.1
    """Dropout inside the encoder."""
    gradient_checkpointing: Annotated[Flag, Mark.TRAINING] = False
    """Less memory for a third more time."""
    trainable: Trainable = "all"
    """``head``: the encoder stays as it was published."""

    @property
    def most_tokens(self) -> int:
        """Of a row, where the model takes so many."""
        return self.max_text_len or sys.maxsize


class NumericalMlp(Section):
    hidden_size: Size = 128
    """Width of the hidden layers."""
    num_layers: Size = 1
    """Hidden layers."""
    activation: Activation = "leaky_relu"
    """Between the layers."""
    normalization: Literal["layer_norm", "batch_norm", "none"] = "layer_norm"
    """Before each activation."""
    dropout: Dropout = 0.1
    """After each activation."""


class CategoricalMlp(NumericalMlp):
    max_embedding_dim: Size = 100
    """Widest embedding of a column; one of n categories gets 1.6 n^0.56."""
    hidden_size: Size = 64
    """Width of the hidden layers."""


class FtTransformer(Section):
    token_dim: Annotated[Size, Mark.BUILDING] = 192
    """Width of a column's token; a multiple of ``attention_num_heads``."""
    num_blocks: Size = 3
    """Transformer blocks."""
    attention_num_heads: Annotated[PositiveInt, Mark.BUILDING] = 8
    """Heads of each block's attention among the columns."""
    ffn_hidden_size: Size = 192
    """Width of the feed-forward layers, after their gate."""
    attention_dropout: Dropout = 0.2
    """Of the attention's weights."""
    ffn_dropout: Dropout = 0.1
    """Inside the feed-forward layers."""
    residual_dropout: Dropout = 0.0
    """Of what each block adds."""


class RealMlp(Section):
    num_members: Size = 4
    """Networks trained side by side on the same batches, from weights of their own; their answers are averaged."""
    hidden_size: Size = 256
    """Width of the hidden layers."""
    num_layers: Size = 3
    """Hidden layers."""
    activation: Activation = "selu"
    """Blended with the identity by a learned share for each unit. The paper takes selu for classes and mish for regression."""
    dropout: Dropout = 0.15
    """After each activation."""
    frequency_scale: PositiveFloat = 0.3
    """Spread of the frequencies with which the embedding of a number begins; larger ones follow finer steps. The paper takes 0.1 of numbers scaled
    robustly; of ranks, our default, 0.3 is better (``benchmarks/tabular.py``)."""
    embedding_hidden_size: Size = 16
    """Frequencies a number is embedded with."""
    embedding_dim: Annotated[int, Number, Field(ge=2), Expected("an integer >= 2"), Mark.SIZE] = 4
    """Width of a number's embedding; one of it is the number itself."""
    one_hot_limit: NonNegativeInt = 8
    """A column of more categories than that is embedded, others are one-hot."""
    category_dim: Size = 8
    """Width of a category's embedding."""
    lr_mult: Annotated[PositiveFloat, Mark.TRAINING] = 15.0
    """Learning rate of this network against ``optim.lr``: its parametrisation wants a larger one, 0.01 to 0.04 where others take 1e-3."""


class FusionMlp(Section):
    hidden_sizes: Annotated[tuple[PositiveInt, ...], Field(min_length=1), Expected("a sequence of widths, each >= 1, e.g. [128]"), Mark.SIZE] = (128,)
    """Widths of the layers that see all modalities together."""
    activation: Activation = "leaky_relu"
    """Between the layers."""
    dropout: Dropout = 0.1
    """After each activation."""
    modality_dropout: Dropout = 0.0
    """Probability that a row trains without one of its modalities; one of them always stays."""
    aux_loss_weight: NonNegativeFloat = 0.0
    """Weight of the loss of a head on each modality alone, in training only; 0: there are none."""


class Model(Section):
    names: Annotated[
        tuple[ModelName, ...],
        BeforeValidator(our_words),
        Field(min_length=1),
        AfterValidator(_distinct),
        Expected(f"a list among {', '.join(get_args(ModelName))}"),
        Mark.BUILDING,
    ] = ("timm_image", "hf_text", "real_mlp", "fusion_mlp")
    """Which models may be used; those without a column to feed them drop out. Two or more need ``fusion_mlp`` to bring them together."""
    timm_image: TimmImage = TimmImage()
    hf_text: HfText = HfText()
    numerical_mlp: NumericalMlp = NumericalMlp()
    categorical_mlp: CategoricalMlp = CategoricalMlp()
    ft_transformer: FtTransformer = FtTransformer()
    real_mlp: RealMlp = RealMlp()
    fusion_mlp: FusionMlp = FusionMlp()


class ImageData(Section):
    missing_value_strategy: Annotated[Literal["raise", "skip", "zero"], DECODED_ONCE] = "raise"
    """What a missing or unreadable image does. ``raise``: an error that lists the files. ``skip``: ``fit`` drops the row and lists
    it, ``predict`` answers that row with a missing value. ``zero``: an empty cell (None, NaN, "") is allowed and the row does without that
    image; an unreadable one is an error."""
    max_pixels: Annotated[int, Number, Field(ge=1, le=MAX_PIXELS), Expected(f"an integer in [1, {MAX_PIXELS}]"), DECODED_ONCE] = MAX_PIXELS
    """Largest picture that is decoded, width times height; larger ones are unreadable. One file of 400 megapixels takes gigabytes of memory."""


class NumericalData(Section):
    scaling: Annotated[Scaling, ENCODED_ONCE] = "quantile"
    """How columns of numbers, and the parts of dates that only grow, are scaled. ``quantile``: by rank, to a normal distribution.
    ``standard``: mean 0, standard deviation 1. ``robust``: by median and quartiles, with soft ends at -3 and 3."""


class CategoricalData(Section):
    minimum_cat_count: Annotated[PositiveInt, ENCODED_ONCE] = 2
    """Training rows that a category needs for a code of its own. Rarer ones share the code of the unknown."""
    maximum_num_cat: Annotated[PositiveInt, ENCODED_ONCE] = 1000
    """Most categories of a column with a code of their own, the most frequent ones; the rest share the code of the unknown."""


class Mixup(Section):
    turn_on: Flag = False
    """Mix the pictures of a batch in pairs, and their labels likewise: mixup or CutMix. For classes, and tables of one image column."""
    mixup_alpha: NonNegativeFloat = 0.8
    """Of the Beta distribution of mixup's shares; 0: CutMix only."""
    cutmix_alpha: NonNegativeFloat = 1.0
    """Of the Beta distribution of the area that CutMix replaces; 0: mixup only."""
    prob: Share = 1.0
    """How many of the batches are mixed at all."""
    switch_prob: Share = 0.5
    """How many of those by CutMix."""
    turn_off_epoch: NonNegativeInt = 5
    """From this epoch on nothing is mixed, so that training ends on real pictures."""
    label_smoothing: Fraction = 0.1
    """Of the labels of mixed batches."""


class TextData(Section):
    words: Annotated[Literal["auto", "on", "off"], ENCODED_ONCE] = "auto"
    """``on``: linear models of the words of the text columns, of pairs of words and of characters in a row are fitted to the training rows, and
    what they say of the target stands in the table as numbers, one for each class; of each training row by a model that has not seen it. All of
    a text is read, up to 20,000 characters.
    ``auto``: on where a model that reads numbers is among ``model.names``, up to 100 classes."""


class LabelData(Section):
    numerical_preprocessing: Annotated[Literal["standardscaler", "minmaxscaler"] | None, ENCODED_ONCE] = "standardscaler"
    """What a regression's model learns to answer. ``standardscaler``: labels of mean 0 and standard deviation 1 over the training rows.
    ``minmaxscaler``: from 0 to 1. None: as they are."""


class Data(Section):
    image: ImageData = ImageData()
    label: LabelData = LabelData()
    mixup: Mixup = Mixup()
    numerical: NumericalData = NumericalData()
    categorical: CategoricalData = CategoricalData()
    text: TextData = TextData()
    pos_label: Annotated[
        StrictStr | StrictBool | StrictInt | StrictFloat | None, BeforeValidator(unwrapped), Expected("a class of the label, or None"), ENCODED_ONCE
    ] = None
    """The positive class of two: what metrics such as f1, precision and roc_auc look for. None: the second in order. ``class_labels``, the columns of
    ``predict_proba`` and ``optim.class_weights`` have it behind the other one."""


class Lora(Section):
    r: Size = 8
    """Rank of the matrices that are learned instead of a layer's own."""
    alpha: PositiveFloat = 16.0
    """They are added times ``alpha / r``."""
    dropout: Fraction = 0.0
    """Of what goes into them."""


class FocalLoss(Section):
    gamma: NonNegativeFloat = 2.0
    """How much less a row counts the surer the model is of it; 0 is cross entropy."""


class Optim(Section):
    optim_type: Literal["adamw", "adam", "nadamw", "sgd", "lamb", "lion"] = "adamw"
    """Optimizer; SGD uses Nesterov momentum."""
    lr: Annotated[PositiveFloat, Mark.LIVE] = 1e-4
    """Peak learning rate, reached when the warm-up ends. ``fit`` has defaults of its own by the models used: 1e-4 where a pretrained
    backbone is among them, 1e-3 where all begin from random weights."""
    lr_choice: Literal["", "two_stages", "layerwise_decay"] = ""
    """Learning rates within a model. ``two_stages``: what begins from random weights (heads, fusion, table networks) learns at ``lr`` times
    ``lr_mult``, pretrained backbones at ``lr``. ``layerwise_decay``: so, and each layer of a backbone at ``lr_decay`` times the rate of
    the next one above it."""
    lr_mult: PositiveFloat = 10.0
    """See ``lr_choice``."""
    lr_decay: Annotated[float, Number, Field(gt=0, le=1, allow_inf_nan=False), Expected("a float in (0, 1]")] = 0.9
    """See ``lr_choice``."""
    weight_decay: Annotated[NonNegativeFloat, Mark.LIVE] = 1e-3
    """Decoupled, but L2 for adam and sgd. Norm layers and biases are never decayed."""
    momentum: Fraction = 0.9
    """Momentum of sgd; the others have their own and ignore it."""
    beta2: Fraction = 0.999
    """Memory of the squared gradients in adamw, adam, nadamw and lamb (of the momentum in lion, 0.99 there is usual)."""
    lr_schedule: Literal["cosine_decay", "linear_decay", "polynomial_decay", "multi_step", "coslog4", "constant"] = "cosine_decay"
    """How the learning rate falls from its peak to the last step. ``multi_step``: to a tenth after half, and again after three quarters.
    ``coslog4`` falls and rises four times, ever more slowly (RealMLP's); it begins at zero and wants no warm-up."""
    warmup_steps: Fraction = 0.1
    """Linear warm-up, as a fraction of all steps."""
    end_lr: NonNegativeFloat = 0.0
    """The learning rate that a falling schedule ends at; one that begins below it stays where it is."""
    peft: Annotated[Literal["lora", "lora_bias", "lora_norm", "bit_fit", "norm_fit"] | None, Mark.BUILDING] = None
    """What learns of a pretrained backbone, in place of all of it. ``lora``: low-rank additions to its linear layers, and norms; see ``optim.lora``.
    ``lora_bias``: additions and biases. ``lora_norm``: additions, norms and biases. ``bit_fit``: biases (Ben Zaken et al. 2021, arXiv:2106.10199).
    ``norm_fit``: norms and biases (Frankle et al. 2020, arXiv:2003.00152)."""
    lora: Lora = Lora()
    max_epochs: PositiveInt = 20
    """Passes over the training rows."""
    max_steps: LimitInt = -1
    """Limit of optimizer steps; -1: none."""
    patience: PositiveInt = 10
    """Validations in a row without a better score after which the trial ends."""
    val_check_interval: Annotated[
        float, Number, AfterValidator(_fraction_or_count), Field(allow_inf_nan=False), Expected("a float in (0, 1], or a whole number of steps")
    ] = 1.0
    """Epochs between two validations, or from 2 on steps; as near as a whole number of validations an epoch, evenly spread, comes to it, and at most 500."""
    gradient_clip_val: NonNegativeFloat = 1.0
    """Largest norm of the gradient, or largest value in it; 0 switches clipping off."""
    gradient_clip_algorithm: Literal["norm", "value"] = "norm"
    """What ``gradient_clip_val`` limits."""
    top_k: Annotated[PositiveInt | None, Fixed("it is applied once, after the last trial")] = None
    """Epochs of the best trial that may be averaged, the best ones. None: all that are kept. Where ``num_to_keep`` is not given, so many are."""
    top_k_average_method: Annotated[Literal["greedy_soup", "uniform_soup", "best"], Fixed("it is applied once, after the last trial")] = "greedy_soup"
    """What becomes of the best trial's kept epochs (``num_to_keep`` of them) when the search has ended. ``best``: the best one is the
    predictor. ``greedy_soup``: their weights are averaged one by one, and with those of other kept trials of the same architecture, as long as
    that scores higher on the validation rows. ``uniform_soup``: the average of the best trial's, if it scores higher."""
    loss_func: Annotated[Literal["auto", "cross_entropy", "focal_loss", "mse", "mae", "huber"], BeforeValidator(our_loss)] = "auto"
    """What training minimises. ``auto``: cross entropy for classes, mse for numbers. ``focal_loss`` (of classes) looks less at rows that are
    right already; ``mae`` and ``huber`` less at numbers that are far off."""
    focal_loss: FocalLoss = FocalLoss()
    ema_decay: Fraction = 0.0
    """Validate, keep and predict with a running average of the weights, which forgets this slowly (0.999, say); 0: with the weights.
    After s steps it remembers s^(2/3) of them at most, so that 0.99 is reached after 1,000 steps, and 0.999 after 32,000; below, both are the same."""
    linear_probe: Literal["auto", "on", "off"] = "auto"
    """``on``: a pretrained backbone's features of the training rows are computed once, a regularised linear model is fitted to them, and the
    head starts from it (Kumar et al. 2022, arXiv:2202.10054). Its score is epoch 0 of the trial: an answer within seconds, and what training
    must beat. Of several models the features stand side by side, with the table's columns. ``auto``: on where one is pretrained, up to 20,000 rows."""
    label_smoothing: Annotated[Fraction, Mark.LIVE] = 0.0
    """Probability mass spread evenly over the classes (cross entropy and focal loss)."""
    class_weights: Annotated[Literal["balanced"] | tuple[PositiveFloat, ...] | None, Expected("'balanced', a list of one float > 0 a class, or None")] = None
    """How much a row of each class counts in the loss, in the order of ``class_labels``. ``balanced``: the rarer the class, the more.
    Scaled so that the training rows count 1 on average; multiplies ``sample_weight``."""

    @property
    def adds_lora(self) -> bool:
        """Whether pretrained backbones get low-rank additions."""
        return self.peft is not None and self.peft.startswith("lora")


class Compile(Section):
    turn_on: Annotated[Literal["auto"] | StrictBool, BeforeValidator(unwrapped), Expected("True, False or 'auto'")] = "auto"
    """``torch.compile`` of the pretrained kinds of backbone (images and texts). ``auto``: on a GPU, after the first epoch, where there is a C compiler
    and what is left is long enough to repay the minute that compiling may take. What is compiled rounds a little differently."""
    mode: Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] = "default"
    """Of ``torch.compile``: ``reduce-overhead`` records CUDA graphs, for small models on a fast GPU; ``max-autotune`` tries kernels for minutes."""
    backend: Literal["inductor", "aot_eager", "eager"] = "inductor"
    """Of ``torch.compile``; those but ``inductor`` are for finding faults."""


class Env(Section):
    batch_size: PositiveInt = 128
    """Rows of one optimizer step (the effective batch)."""
    per_gpu_batch_size: PositiveInt | None = None
    """Rows that go through the device at once, with batch norm two at the least; gradients accumulate to ``batch_size``. None: ``batch_size``. Where its memory
    does not hold them, half as many are tried, and so on; what fits is remembered for the search's other trials of this model."""
    inference_batch_size_ratio: PositiveInt = 4
    """Validation and prediction use batches this many times larger."""
    precision: Annotated[Literal["auto", "32", "bf16-mixed", "16-mixed"], BeforeValidator(our_precision)] = "auto"
    """``auto``: bf16-mixed on a GPU that has it, else 32; what stays in float32 may use TensorFloat-32 then. ``32`` never does. ``16-mixed``: float16 with
    scaled losses, for GPUs without bfloat16, such as a T4: a step whose gradient overflows is left out, and the next loss scaled by half. On a
    processor it is many times slower than ``32``."""
    accelerator: Annotated[Literal["auto", "cpu", "gpu"], Fixed("all trials run on one kind of device")] = "auto"
    """``auto``: a GPU where there is one."""
    num_gpus: Annotated[int, Number, Field(ge=-1), Expected("an integer >= -1"), Fixed("it counts the GPUs of the whole search")] = -1
    """GPUs for the whole search; -1: all, 0: none. A trial uses one at most."""
    compile: Compile = Compile()
    deterministic: Flag = False
    """On a GPU, kernels that give the same bits in every run, and take longer; a processor does so anyway."""
    num_workers: Annotated[NonNegativeInt, DECODED_ONCE] = 0
    """Threads that decode image files, once for the whole search; 0: one per core."""

    @property
    def allows_gpu(self) -> bool:
        """Whether a trial takes a GPU where there is one."""
        return self.accelerator != "cpu" and self.num_gpus != 0


class Config(Section):
    """All hyperparameters of one trial."""

    model: Model = Model()
    data: Data = Data()
    optim: Optim = Optim()
    env: Env = Env()

    @classmethod
    def from_flat(cls, values: Mapping[str, Any]) -> Self:
        """Builds a config from dotted keys; the keys that are absent take their defaults.

        Raises:
            UnknownHyperparameter, InvalidHyperparameter, InvalidInput: all problems together.
        """
        tree: dict[str, Any] = {}
        for key, value in check_values(values).items():
            *groups, leaf = key.split(".")
            functools.reduce(lambda branch, group: branch.setdefault(group, {}), groups, tree)[leaf] = value
        return cls.model_validate(tree)

    def flat(self) -> dict[str, Any]:
        """All hyperparameters by dotted key, as JSON-ready values."""
        return {key: _get(self, key) for key in FIELDS}

    def with_overrides(self, values: Mapping[str, Any]) -> Self:
        """A new config with some dotted keys changed, validated like the first."""
        return type(self).from_flat({**self.flat(), **values})


def _get(config: Section, key: str) -> Any:
    value: Any = functools.reduce(getattr, key.split("."), config)
    return list(value) if isinstance(value, tuple) else value


FIELDS = fields_of(Config)


def keys_marked(mark: Mark) -> tuple[str, ...]:
    """The hyperparameters of which something holds."""
    return tuple(key for key, field in FIELDS.items() if mark in field.marks)


GROUPS = {key.rsplit(".", depth)[0] for key in FIELDS for depth in range(1, key.count(".") + 1)}


def canonical_key(key: str) -> str:
    """The one name of a hyperparameter: ``optimization.learning_rate`` is ``optim.lr``."""
    if key == "optimization" or key.startswith("optimization."):
        key = "optim" + key.removeprefix("optimization")
    return ALIASES.get(key, key)


def _unknown(key: str) -> UnknownHyperparameter:
    if instead := why_not(canonical_key(key)):
        return UnknownHyperparameter(f"{key}: unknown hyperparameter, one of AutoMM's; {instead}")
    # the whole key first, then its last word alone, so that `lr` without its group finds `optim.lr`
    near = list(dict.fromkeys(map(canonical_key, nearest(key, [*FIELDS, *ALIASES])))) if "." in key else []
    if not near:
        by_leaf: dict[str, list[str]] = {}
        for known in [*FIELDS, *ALIASES]:
            by_leaf.setdefault(known.rsplit(".", 1)[-1], []).append(canonical_key(known))
        leaf = key.rsplit(".", 1)[-1]
        near = list(dict.fromkeys(found for name in ([leaf] if leaf in by_leaf else nearest(leaf, by_leaf)) for found in by_leaf[name]))[:3]
    hint = f"Did you mean {' or '.join(near)}?" if near else f"The groups are {', '.join(Config.model_fields)}."
    return UnknownHyperparameter(f"{key}: unknown hyperparameter. {hint}")


def _entries(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str, Any]]:
    """(canonical key, the name the user wrote, value), nested dicts taken apart."""
    for name, value in values.items():
        written = f"{prefix}{name}"
        # {"grid_search": [...]} is Ray's spelling of a space, not a group
        if canonical_key(written) in GROUPS and isinstance(value, Mapping) and set(value) != {"grid_search"}:
            yield from _entries(value, written + ".")
        else:
            yield canonical_key(written), written, value


def resolve_keys(hyperparameters: Mapping[str, Any], problems: Problems) -> dict[str, Any]:
    """Flattens groups and replaces aliases; the values are passed through unseen.

    Args:
        problems: gets unknown keys, and keys given twice.

    Returns:
        Canonical key -> value, of what is in order; a group that got something other than a dict is passed through too.
    """
    if not isinstance(hyperparameters, Mapping):
        problems.add(InvalidHyperparameter(f"hyperparameters: expected a dict of dotted keys, got {hyperparameters!r} ({type(hyperparameters).__name__})"))
        return {}
    resolved: dict[str, Any] = {}
    written_as: dict[str, str] = {}
    for key, written, value in _entries(hyperparameters):
        if is_left_out(key, value):
            continue
        if key not in FIELDS and key not in GROUPS:
            problems.add(_unknown(written))
        elif key not in resolved:
            resolved[key], written_as[key] = value, written
        elif written == written_as[key]:
            problems.add(InvalidHyperparameter(f"{written}: is given twice, as a dotted key and inside the dict of its group; give one of them"))
        elif not (isinstance(value, (int, float, str)) and value == resolved[key]):  # AutoMM has two where one is enough here
            problems.add(InvalidHyperparameter(f"{written_as[key]} and {written} are the same hyperparameter ({key}): give one of them"))
    return resolved


def without_effect(hyperparameters: Mapping[str, Any]) -> dict[str, str]:
    """What ``resolve_keys`` leaves out, for it does nothing here -> why."""
    return {written: NO_EFFECT[key] for key, written, _ in _entries(hyperparameters) if key in NO_EFFECT}


def check_value(key: str, value: Any) -> Any:
    """The value of a canonical key as its field stores it.

    Raises:
        InvalidHyperparameter: the value is not what the field expects.
    """
    return FIELDS[key].check(key, value)


def check_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """``check_value`` over many canonical keys, all problems together."""
    problems = Problems()
    checked: dict[str, Any] = {}
    for key, value in values.items():
        with problems.gather():
            if key not in FIELDS:
                raise _unknown(key)
            checked[key] = check_value(key, value)
    problems.raise_any()
    return checked
