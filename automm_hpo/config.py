"""The hyperparameters of one trial: a typed, frozen tree in which the path of attributes is the public dotted key.

The docstring under a field is its documentation. ``fit`` replaces some defaults by others that suit the data (``presets.py``); the fields concerned say so.
There, a plain table is one that neither an image model nor a text encoder reads.

To add a hyperparameter, add a field here with its default, range, marks (``sections.py``) and docstring, then its use and its test.
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


def _none_or_several(count: int) -> int:
    if count == 1:
        raise ValueError("one part")
    return count


def _fraction_or_count(value: float) -> float:
    if not (0 < value <= 1 or (value > 1 and value.is_integer())):
        raise ValueError("neither a fraction nor a count")
    return value


Dropout = Annotated[Fraction, Mark.LIVE, Mark.TRAINING]
Size = Annotated[PositiveInt, Mark.SIZE]
DECODED_ONCE = Fixed("the images are decoded once for all trials")
ENCODED_ONCE = Fixed("the table is encoded once for all trials")
DIVIDED_ONCE = Fixed("all trials are compared by the same validation")
MAX_PIXELS = 89_478_485  # Pillow's own limit for a plausible image; a larger one can take gigabytes
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
    """Name of a timm model, with or without a pretrained tag; also ``hf-hub:owner/name`` and ``local-dir:path``. The default is fast on a CPU too."""
    checkpoint_path: Annotated[Text | None, Mark.BUILDING] = None
    """File with weights to load instead of the published ones: safetensors, or a state dict that torch reads with ``weights_only``. Weights of a classifier
    in it are ignored."""
    pretrained: Annotated[Flag, Mark.BUILDING] = True
    """Whether to start from published weights, which are fetched once. False: random weights; timm's own models then need no network. With a
    ``checkpoint_path`` this does nothing."""
    image_size: Annotated[ImageSize | None, Mark.BUILDING, Mark.DECODING] = None
    """Height and width of the images that the model sees, in pixels; time grows with its square. None: the size that the weights were published for,
    or a smaller one if ``time_limit`` is too short for it."""
    max_image_num_per_column: Annotated[PositiveInt, DECODED_ONCE] = 1
    """Most images that are read per cell, from the first on. A cell may hold several: a list, or paths separated by semicolons. A row's features are the mean
    over its images. Every row takes as much time as the one with the most images."""
    train_transforms: Annotated[
        tuple[Augmentation | ToSquare, ...],
        BeforeValidator(our_words),
        AfterValidator(_distinct),
        Expected(f"a list among {', '.join(get_args(Augmentation))}"),
        Mark.TRAINING,
    ] = ("random_crop", "random_horizontal_flip")
    """Augmentations of the training images, on the device; ``[]``: none. ``random_crop`` moves the window, up to 1/16 of its size beyond the edge,
    ``random_resized_crop`` cuts out 35 to 100% of the area, ``random_horizontal_flip`` and ``random_vertical_flip`` mirror half of the images. The others are
    torchvision's, of colours and geometry. How an image becomes a square is set by ``val_transforms``, whose words are accepted here if they agree with it."""
    val_transforms: Annotated[Literal["center_crop", "resize_to_square"], BeforeValidator(our_square), DECODED_ONCE] = "center_crop"
    """How an image becomes a square, in training as well. ``center_crop`` (AutoMM's ``['resize_shorter_side', 'center_crop']``) keeps the proportions and
    cuts off both ends of the longer side. ``resize_to_square`` keeps the whole image and distorts it."""
    drop_rate: Dropout = 0.0
    """Probability with which a feature is dropped before the head, in training."""
    drop_path_rate: Annotated[Fraction, Mark.BUILDING, Mark.TRAINING] = 0.0
    """Stochastic depth: probability with which a residual block is skipped in training, for models that have it; 0: off."""
    trainable: Trainable = "all"
    """What is trained. ``all``: the backbone too. ``head``: the backbone stays as published, and only what is built on it learns; faster, for very few rows."""
    frozen_norm_stats: Annotated[Flag, Mark.TRAINING] = False
    """Whether batch norm keeps its published means and variances. Small data estimates them badly, which spoils the features, so ``fit`` sets True below
    5,000 training rows. Without published weights there are none to keep, and this does nothing."""

    @property
    def is_pretrained(self) -> bool:
        """Whether the model starts from published weights, or from those of a file."""
        return self.pretrained or self.checkpoint_path is not None


class HfText(Section):
    checkpoint_name: Annotated[Text, Mark.BUILDING, Mark.TOKENS] = "sentence-transformers/all-MiniLM-L6-v2"
    """Hub repository or local folder of a text encoder of the transformers library. Its configuration, tokenizer and weights are read; code in it is
    never run. The default is small and fast."""
    pretrained: Annotated[Flag, Mark.BUILDING] = True
    """Whether to start from published weights. False: random weights; config.json and the tokenizer are still read from the repository or folder."""
    max_text_len: Annotated[PositiveInt | None, BeforeValidator(our_limit), Mark.BUILDING, Mark.TOKENS] = 256
    """Most tokens per row, special ones included; a longer text keeps its beginning and its end, half of the tokens each. Never more than the model takes;
    None, or -1: as many as it takes. Longer texts cost more time and memory."""
    pooling_mode: Literal["cls", "mean"] = "mean"
    """How a text's features are made of its tokens' states: the first token's (``cls``) or the mean of all (``mean``). Should be what the checkpoint was
    trained with; ``mean`` is right for the default one."""
    dropout: Dropout = 0.1
    """Dropout probability in all layers of the encoder, attention included. It replaces the checkpoint's own."""
    gradient_checkpointing: Annotated[Flag, Mark.TRAINING] = False
    """Whether to recompute the encoder's activations in the backward pass instead of storing them: less memory for a third more time."""
    trainable: Trainable = "all"
    """What is trained. ``all``: the encoder too. ``head``: the encoder stays as published, and only what is built on it learns."""

    @property
    def most_tokens(self) -> int:
        """``max_text_len`` as a number, a very large one if there is no limit."""
        return self.max_text_len or sys.maxsize


class NumericalMlp(Section):
    hidden_size: Size = 128
    """Width of the hidden layers, in units."""
    num_layers: Size = 1
    """Number of hidden layers."""
    activation: Activation = "leaky_relu"
    """Activation function of the hidden layers."""
    normalization: Literal["layer_norm", "batch_norm", "none"] = "layer_norm"
    """Normalization before each activation. ``batch_norm`` needs an ``env.batch_size`` of at least 2."""
    dropout: Dropout = 0.1
    """Dropout probability after each activation."""


class CategoricalMlp(NumericalMlp):
    max_embedding_dim: Size = 100
    """Greatest width of a column's embedding. A column with n codes (its categories, unknown, missing) gets 1.6 n^0.56, up to this."""
    hidden_size: Size = 64
    """Width of the hidden layers, in units."""


class FtTransformer(Section):
    token_dim: Annotated[Size, Mark.BUILDING] = 192
    """Width of a column's token; must be a multiple of ``attention_num_heads``."""
    num_blocks: Size = 3
    """Number of transformer blocks."""
    attention_num_heads: Annotated[PositiveInt, Mark.BUILDING] = 8
    """Number of heads in each block's attention among the columns."""
    ffn_hidden_size: Size = 192
    """Width of the feed-forward layers, after their gate."""
    attention_dropout: Dropout = 0.2
    """Dropout probability of the attention weights."""
    ffn_dropout: Dropout = 0.1
    """Dropout probability inside the feed-forward layers."""
    residual_dropout: Dropout = 0.0
    """Dropout probability of what attention and feed-forward layers add to a token."""


class RealMlp(Section):
    num_members: Annotated[Size, Mark.BUILDING] = 4
    """Networks that are trained side by side on the same batches, each from its own random weights; their predictions are averaged. More are more accurate
    and take longer."""
    hidden_size: Size = 256
    """Width of the hidden layers, in units."""
    num_layers: Size = 3
    """Number of hidden layers."""
    activation: Activation = "selu"
    """Activation function of the hidden layers, mixed with the identity by a share that each unit learns. As in the paper, ``fit`` uses selu for
    classification and mish for regression."""
    dropout: Dropout = 0.15
    """Dropout probability after each activation."""
    frequency_scale: PositiveFloat = 0.3
    """Standard deviation of the initial frequencies in the embedding of numbers; larger ones resolve finer differences. The paper uses 0.1 for robustly scaled
    numbers; with scaling by rank (``data.numerical.scaling``), 0.3 is better (``benchmarks/tabular.py``)."""
    embedding_hidden_size: Size = 16
    """Number of frequencies in the embedding of a number."""
    embedding_dim: Annotated[int, Number, Field(ge=2), Expected("an integer >= 2"), Mark.SIZE] = 4
    """Width of a number's embedding, of which one unit is the number itself."""
    one_hot_limit: NonNegativeInt = 8
    """Columns with up to this many categories (a missing value counts as one) are one-hot encoded; those with more get a learned embedding."""
    category_dim: Size = 8
    """Width of a category's embedding, in columns above ``one_hot_limit``."""
    lr_mult: Annotated[PositiveFloat, Mark.TRAINING] = 15.0
    """Factor on ``optim.lr`` for this network. Its parametrisation needs a larger rate, 0.01 to 0.04 where other networks need about 1e-3."""


class FusionMlp(Section):
    hidden_sizes: Annotated[tuple[PositiveInt, ...], Field(min_length=1), Expected("a sequence of widths, each >= 1, e.g. [128]"), Mark.SIZE] = (128,)
    """Widths, in units, of the hidden layers that see all modalities together."""
    activation: Activation = "leaky_relu"
    """Activation function of the hidden layers."""
    dropout: Dropout = 0.1
    """Dropout probability after each activation."""
    modality_dropout: Dropout = 0.0
    """Probability with which each modality of a row is left out in training; one of them is always kept. Keeps the model from relying on one modality."""
    aux_loss_weight: NonNegativeFloat = 0.0
    """Weight of additional losses in training, from a head on each modality alone; 0: no such heads."""


class Model(Section):
    names: Annotated[
        tuple[ModelName, ...],
        BeforeValidator(our_words),
        Field(min_length=1),
        AfterValidator(_distinct),
        Expected(f"a list among {', '.join(get_args(ModelName))}"),
        Mark.BUILDING,
    ] = ("timm_image", "hf_text", "real_mlp", "fusion_mlp")
    """Models that may be used; those without a column to read drop out. Several need ``fusion_mlp``, which combines them. A column that none of them can read
    is an error."""
    timm_image: TimmImage = TimmImage()
    hf_text: HfText = HfText()
    numerical_mlp: NumericalMlp = NumericalMlp()
    categorical_mlp: CategoricalMlp = CategoricalMlp()
    ft_transformer: FtTransformer = FtTransformer()
    real_mlp: RealMlp = RealMlp()
    fusion_mlp: FusionMlp = FusionMlp()


class ImageData(Section):
    missing_value_strategy: Annotated[Literal["raise", "skip", "zero"], DECODED_ONCE] = "raise"
    """What happens if an image is missing or unreadable. ``raise``: an error lists the files. ``skip``: ``fit`` drops the row and reports it, ``predict``
    returns a missing value for it. ``zero``: an empty cell (None, NaN, "") is allowed, and the row does without that image; an unreadable one is an error."""
    max_pixels: Annotated[int, Number, Field(ge=1, le=MAX_PIXELS), Expected(f"an integer in [1, {MAX_PIXELS}]"), DECODED_ONCE] = MAX_PIXELS
    """Size of the largest image that is decoded, width times height in pixels; larger ones count as unreadable. Protects the memory: a single file of 400
    megapixels takes gigabytes. The default is Pillow's own limit."""


class NumericalData(Section):
    scaling: Annotated[Scaling, ENCODED_ONCE] = "quantile"
    """How numbers, and the years and elapsed days of dates, are scaled. ``quantile``: by rank, to a normal distribution, whatever the outliers. ``standard``:
    to mean 0 and standard deviation 1. ``robust``: by median and quartiles, smoothly limited to between -3 and 3."""


class CategoricalData(Section):
    minimum_cat_count: Annotated[PositiveInt, ENCODED_ONCE] = 2
    """Training rows that a category needs to get a code of its own. Rarer ones share the code for unknown categories, so that it is trained too."""
    maximum_num_cat: Annotated[PositiveInt, ENCODED_ONCE] = 1000
    """Most categories of a column that get a code of their own: the most frequent ones. The others share the code for unknown categories."""


class Mixup(Section):
    turn_on: Flag = False
    """Whether to mix the images of a batch in pairs, and their labels likewise, by mixup or CutMix. Only for classification by a single image column."""
    mixup_alpha: NonNegativeFloat = 0.8
    """Parameter of the Beta distribution from which mixup draws the shares of two images; 0: CutMix only."""
    cutmix_alpha: NonNegativeFloat = 1.0
    """Parameter of the Beta distribution from which CutMix draws the area to replace; 0: mixup only."""
    prob: Share = 1.0
    """Probability that a batch is mixed at all."""
    switch_prob: Share = 0.5
    """Probability that a mixed batch is mixed by CutMix, if both are on."""
    turn_off_epoch: NonNegativeInt = 5
    """Number of epochs with mixing. After them nothing is mixed, so that training ends on real images."""
    label_smoothing: Fraction = 0.1
    """Probability mass spread evenly over the classes, for the labels of mixed batches (``optim.label_smoothing`` is for the others)."""


class TextData(Section):
    words: Annotated[Literal["auto", "on", "off"], ENCODED_ONCE] = "auto"
    """Whether linear models of the text columns' words, pairs of words and short runs of characters are fitted to the training rows. Their scores for the
    target become numeric columns: one for each class, or a single one for two classes and for regression. A training row is scored by a model that has not
    seen it. Texts are read whole, those of more than 20,000 characters at both ends.
    ``auto``: on if the models in ``model.names`` can read numbers, for up to 100 classes."""


class LabelData(Section):
    numerical_preprocessing: Annotated[Literal["standardscaler", "minmaxscaler"] | None, ENCODED_ONCE] = "standardscaler"
    """How the labels of a regression are scaled for training; predictions are scaled back. ``standardscaler``: to mean 0 and standard deviation 1 over the
    training rows, so that learning does not depend on the label's unit. ``minmaxscaler``: to [0, 1]. None: not at all."""


class Data(Section):
    num_folds: Annotated[int, Number, Field(ge=0), AfterValidator(_none_or_several), Expected("0, or an integer >= 2"), DIVIDED_ONCE] = 0
    """Parts of the training rows for cross-validation within each trial: the networks of ``real_mlp`` take turns in leaving a part out, and every row is
    validated by the networks that have not learned from it. So no row is lost to learning, and all of them judge. Needs ``real_mlp`` as the only model, with
    as many ``num_members`` or a multiple. 0: some rows are held out instead. ``fit`` uses 4 for plain tables of up to 10,000 rows, unless ``tuning_data``,
    ``holdout_frac``, ``start_from`` or a search of ``num_members`` say otherwise."""
    image: ImageData = ImageData()
    label: LabelData = LabelData()
    mixup: Mixup = Mixup()
    numerical: NumericalData = NumericalData()
    categorical: CategoricalData = CategoricalData()
    text: TextData = TextData()
    pos_label: Annotated[
        StrictStr | StrictBool | StrictInt | StrictFloat | None, BeforeValidator(unwrapped), Expected("a class of the label, or None"), ENCODED_ONCE
    ] = None
    """The positive one of two classes, for which metrics such as f1, precision and roc_auc are computed. None: the second one in order. It comes last in
    ``class_labels``, in the columns of ``predict_proba`` and in ``optim.class_weights``."""


class Lora(Section):
    r: Size = 8
    """Rank of the two matrices that are trained in place of a layer's own weights. A higher rank can learn more and takes more memory."""
    alpha: PositiveFloat = 16.0
    """Scale of the additions: their product is multiplied by ``alpha / r``."""
    dropout: Fraction = 0.0
    """Dropout probability of the inputs of the additions."""


class FocalLoss(Section):
    gamma: NonNegativeFloat = 2.0
    """Focusing exponent: the larger it is, the less those rows count of which the model is already sure. 0 is cross entropy."""


class Optim(Section):
    optim_type: Literal["adamw", "adam", "nadamw", "sgd", "lamb", "lion"] = "adamw"
    """Optimizer. ``sgd`` uses Nesterov momentum; the default suits pretrained and new networks alike."""
    lr: Annotated[PositiveFloat, Mark.LIVE] = 1e-4
    """Peak learning rate, reached at the end of the warm-up. ``fit`` chooses it by the models used: 1e-4 if one is pretrained (3e-4 for images alone), else
    1e-3; for plain tables 2e-3 if ``real_mlp`` learns a regression, and 1e-4 for ``ft_transformer`` alone."""
    lr_choice: Literal["", "two_stages", "layerwise_decay"] = ""
    """How learning rates differ within a model. ``""``: one rate for all of it. ``two_stages``: pretrained backbones learn at ``lr``, and what begins from
    random weights (heads, fusion, table networks) at ``lr`` times ``lr_mult``. ``layerwise_decay``: the same, and each layer of a pretrained backbone learns
    at ``lr_decay`` times the rate of the layer above it. ``fit`` chooses ``layerwise_decay`` if a backbone is pretrained."""
    lr_mult: PositiveFloat = 10.0
    """Factor on ``lr`` for what begins from random weights, if ``lr_choice`` is not ``""``: new weights have more to learn than pretrained ones. ``fit`` uses 1
    for a single pretrained backbone whose head a linear probe has fitted."""
    lr_decay: Annotated[float, Number, Field(gt=0, le=1, allow_inf_nan=False), Expected("a float in (0, 1]")] = 0.9
    """Factor on the learning rate from each layer of a pretrained backbone to the one below it, with ``lr_choice="layerwise_decay"``: lower layers hold
    general features, which should change less. 1: all layers learn alike."""
    weight_decay: Annotated[NonNegativeFloat, Mark.LIVE] = 1e-3
    """Weight decay, decoupled from the gradient; for adam and sgd an L2 penalty. Norm layers and biases are never decayed. ``fit`` uses 0.02 for plain
    tables with ``real_mlp`` and 1e-5 for ``ft_transformer`` alone."""
    momentum: Fraction = 0.9
    """Momentum of ``sgd``; the other optimizers have their own and ignore it."""
    beta2: Fraction = 0.999
    """Decay of the running mean of squared gradients in adamw, adam, nadamw and lamb, and of the momentum in lion, for which 0.99 is usual. ``fit`` uses 0.95
    for plain tables with ``real_mlp``."""
    lr_schedule: Literal["cosine_decay", "linear_decay", "polynomial_decay", "multi_step", "coslog4", "constant"] = "cosine_decay"
    """How the learning rate goes from the end of the warm-up to the last step. ``polynomial_decay`` falls quadratically. ``multi_step`` falls to a tenth after
    half of the steps, and again after three quarters. ``coslog4`` rises from zero and falls back four times, ever more slowly, and needs no warm-up; it is
    RealMLP's, and ``fit`` uses it for plain tables with ``real_mlp``. ``constant`` stays at ``lr``."""
    warmup_steps: Fraction = 0.1
    """Length of the linear warm-up, as a fraction of all steps. It keeps the first, still noisy updates small. ``fit`` uses 0 with ``coslog4``, its default for
    plain tables with ``real_mlp``."""
    end_lr: NonNegativeFloat = 0.0
    """Learning rate at the end of a falling schedule. If ``lr`` is lower than that, it stays at ``lr``."""
    peft: Annotated[Literal["lora", "lora_bias", "lora_norm", "bit_fit", "norm_fit"] | None, Mark.BUILDING] = None
    """Which part of a pretrained backbone is trained; None: all of it. ``lora``: low-rank additions to its linear layers, and norms; see ``optim.lora``.
    ``lora_bias``: additions and biases. ``lora_norm``: additions, norms and biases. ``bit_fit``: biases (Ben Zaken et al. 2021, arXiv:2106.10199).
    ``norm_fit``: norms and biases (Frankle et al. 2020, arXiv:2003.00152)."""
    lora: Lora = Lora()
    max_epochs: PositiveInt = 20
    """Epochs (passes over the training rows) after which a trial ends, and over which the learning rate falls. ``fit`` uses 20 with a pretrained backbone, 10
    from 20,000 rows on (with a text encoder 5 and 3), and 100 for plain tables, fewer beyond 30,000 rows."""
    max_steps: LimitInt = -1
    """Optimizer steps after which a trial ends, if ``max_epochs`` does not end it before; -1: no limit."""
    patience: PositiveInt = 10
    """Early stopping: a trial ends after this many validations in a row without a better score. ``fit`` uses 40 for plain tables with ``real_mlp``,
    16 for ``ft_transformer`` alone, and 20 for other plain tables."""
    val_check_interval: Annotated[
        float, Number, AfterValidator(_fraction_or_count), Field(allow_inf_nan=False), Expected("a float in (0, 1], or a whole number of steps")
    ] = 1.0
    """Time between two validations: up to 1 in epochs, from 2 on in steps. It is rounded so that an epoch has a whole number of evenly spaced validations, at
    least one and at most 500."""
    gradient_clip_val: NonNegativeFloat = 1.0
    """Limit to which a larger gradient is clipped, see ``gradient_clip_algorithm``; 0: no clipping. ``fit`` uses 0 for plain tables with ``real_mlp``."""
    gradient_clip_algorithm: Literal["norm", "value"] = "norm"
    """What ``gradient_clip_val`` limits: the norm of the whole gradient, or the absolute value of each component."""
    top_k: Annotated[PositiveInt | None, Fixed("it is applied once, after the last trial")] = None
    """Most epochs of the best trial that may be averaged, the best ones; None: all that are kept. Unless ``num_to_keep`` is given, this many are kept."""
    top_k_average_method: Annotated[Literal["greedy_soup", "uniform_soup", "best"], Fixed("it is applied once, after the last trial")] = "greedy_soup"
    """How the predictor is made of the best trial's kept epochs (``num_to_keep`` of them) at the end of the search. ``best``: it is the best one.
    ``greedy_soup``: their weights, and those of other kept trials of the same architecture, are averaged one after the other, and each is kept in the average
    only if that predicts the validation rows better. ``uniform_soup``: the average of all of the best trial's, if it is better. An average costs no more than
    one model at prediction."""
    calibrate: Annotated[Flag, Fixed("it is applied once, after the last trial")] = True
    """Whether the class probabilities of a predictor that is too sure of itself on the validation rows are made less extreme at the end of the search, by one
    temperature for all (arXiv:1706.04599). The predicted classes stay the same."""
    loss_func: Annotated[Literal["auto", "cross_entropy", "focal_loss", "mse", "mae", "huber"], BeforeValidator(our_loss)] = "auto"
    """Loss that training minimises. ``auto``: cross entropy for classification, mse for regression. ``focal_loss`` (classification) gives less weight to rows
    that are already right; ``mae`` and ``huber`` (regression) give less weight to labels that are far off."""
    focal_loss: FocalLoss = FocalLoss()
    ema_decay: Fraction = 0.0
    """Decay of a running average of the weights (0.999, say), which is validated, kept and used for prediction instead of the weights themselves; 0: no
    average. After s steps it reaches back over at most s^(2/3) of them, so that a decay of 0.99 is in force from 1,000 steps on and 0.999 from 32,000;
    before, both do the same."""
    linear_probe: Literal["auto", "on", "off"] = "auto"
    """Whether a trial with a pretrained backbone begins with a linear probe: the backbone's features of the training rows are computed once, a regularised
    linear model is fitted to them, and the head starts from it (Kumar et al. 2022, arXiv:2202.10054). The probe's score is epoch 0 of the trial: a result
    within seconds, which training must beat. With several models, it is fitted to the pretrained ones' features and the table's columns together.
    ``auto``: on with up to 20,000 training rows; with more, an epoch of training serves the head as well."""
    label_smoothing: Annotated[Fraction, Mark.LIVE] = 0.0
    """Probability mass of the labels that is spread evenly over the classes, against overconfidence (for cross entropy and focal loss)."""
    class_weights: Annotated[
        Literal["balanced"] | tuple[PositiveFloat, ...] | None, Expected("'balanced', a list of one float > 0 for each of class_labels, or None")
    ] = None
    """Weight of each class's rows in the loss, in the order of ``class_labels``. ``balanced``: inversely proportional to the class's frequency. None: all rows
    count alike. The weights are scaled to a mean of 1 over the training rows, and multiplied by ``sample_weight``."""

    @property
    def adds_lora(self) -> bool:
        """Whether low-rank additions are trained in pretrained backbones."""
        return self.peft is not None and self.peft.startswith("lora")


class Compile(Section):
    turn_on: Annotated[Literal["auto"] | StrictBool, BeforeValidator(unwrapped), Expected("True, False or 'auto'")] = "auto"
    """Whether to speed up image models and text encoders by ``torch.compile``. ``auto``: on a GPU, after the first validation, if there is a C compiler and the
    training left is long enough to repay the minute that compiling may take. Compiled models round a little differently."""
    mode: Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] = "default"
    """Mode of ``torch.compile``: ``reduce-overhead`` records CUDA graphs, for small models on a fast GPU; ``max-autotune`` tries out kernels for minutes."""
    backend: Literal["inductor", "aot_eager", "eager"] = "inductor"
    """Backend of ``torch.compile``. Those other than ``inductor`` are for debugging."""


class Env(Section):
    batch_size: PositiveInt = 128
    """Rows per optimizer step (the effective batch size). ``fit`` uses 32 to 256 by the number of rows (up to 128 with images or a text encoder), so that an
    epoch has at least 20 steps."""
    per_gpu_batch_size: PositiveInt | None = None
    """Rows that go through the device at once (at least two with batch norm); gradients accumulate over ``batch_size`` rows. None: ``batch_size``. If they do
    not fit into its memory, half as many are tried, and so on; what fits is remembered for the search's other trials of this model."""
    inference_batch_size_ratio: PositiveInt = 4
    """Factor by which the batches of validation and prediction are larger: without gradients, a row takes less memory."""
    precision: Annotated[Literal["auto", "32", "bf16-mixed", "16-mixed"], BeforeValidator(our_precision)] = "auto"
    """Precision of training and prediction. ``auto``: bf16-mixed on a GPU that supports it, else float32. ``32``: float32. ``bf16-mixed``: bfloat16 where it
    is safe. ``16-mixed``: float16 with scaled losses, for GPUs without bfloat16 such as a T4; a step whose gradient overflows is skipped, and the scale is
    halved. On a CPU it is many times slower than ``32``. With all but ``32``, a GPU may compute what stays in float32 in TensorFloat-32."""
    accelerator: Annotated[Literal["auto", "cpu", "gpu"], Fixed("all trials run on one kind of device")] = "auto"
    """Device of all trials. ``auto``: a GPU if there is one, else the CPU. ``gpu``: a GPU, or an error if there is none."""
    num_gpus: Annotated[int, Number, Field(ge=-1), Expected("an integer >= -1"), Fixed("it counts the GPUs of the whole search")] = -1
    """Number of GPUs for the whole search; -1: all that there are, 0: none. A trial uses at most one."""
    compile: Compile = Compile()
    deterministic: Flag = False
    """Whether a GPU uses only kernels that give identical results in every run, which are slower. A CPU gives identical results anyway."""
    num_workers: Annotated[NonNegativeInt, DECODED_ONCE] = 0
    """Number of threads that decode the images, once for the whole search; 0: one per core."""

    @property
    def allows_gpu(self) -> bool:
        """Whether a trial uses a GPU if there is one."""
        return self.accelerator != "cpu" and self.num_gpus != 0


class Config(Section):
    """All hyperparameters of one trial."""

    model: Model = Model()
    data: Data = Data()
    optim: Optim = Optim()
    env: Env = Env()

    @classmethod
    def from_flat(cls, values: Mapping[str, Any]) -> Self:
        """Builds a config from dotted keys; keys that are not given have their defaults.

        Raises:
            UnknownHyperparameter, InvalidHyperparameter, InvalidInput: keys or values are wrong; all problems together.
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
        """A new config with the values of some dotted keys changed, validated again."""
        return type(self).from_flat({**self.flat(), **values})


def _get(config: Section, key: str) -> Any:
    value: Any = functools.reduce(getattr, key.split("."), config)
    return list(value) if isinstance(value, tuple) else value


FIELDS = fields_of(Config)


def keys_marked(mark: Mark) -> tuple[str, ...]:
    """The hyperparameters that carry a mark, by dotted key."""
    return tuple(key for key, field in FIELDS.items() if mark in field.marks)


GROUPS = {key.rsplit(".", depth)[0] for key in FIELDS for depth in range(1, key.count(".") + 1)}


def canonical_key(key: str) -> str:
    """The canonical name of a hyperparameter: ``optimization.learning_rate`` is ``optim.lr``."""
    if key == "optimization" or key.startswith("optimization."):
        key = "optim" + key.removeprefix("optimization")
    return ALIASES.get(key, key)


def _unknown(key: str) -> UnknownHyperparameter:
    if instead := why_not(canonical_key(key)):
        return UnknownHyperparameter(f"{key}: AutoMM's hyperparameter is not supported here; {instead}")
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
    """(canonical key, name as the user wrote it, value), with nested dicts flattened."""
    for name, value in values.items():
        written = f"{prefix}{name}"
        # {"grid_search": [...]} is Ray's spelling of a space, not a group
        if canonical_key(written) in GROUPS and isinstance(value, Mapping) and set(value) != {"grid_search"}:
            yield from _entries(value, written + ".")
        else:
            yield canonical_key(written), written, value


def resolve_keys(hyperparameters: Mapping[str, Any], problems: Problems) -> dict[str, Any]:
    """Flattens groups and replaces aliases; the values are not checked.

    Args:
        problems: receives the errors about unknown keys, and about keys given twice.

    Returns:
        Canonical key -> value, without the keys that have a problem. A group that was given something other than a dict is passed through.
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
        elif not (isinstance(value, (int, float, str)) and value == resolved[key]):  # some pairs of AutoMM's keys are one key here
            problems.add(InvalidHyperparameter(f"{written_as[key]} and {written} are the same hyperparameter ({key}): give one of them"))
    return resolved


def without_effect(hyperparameters: Mapping[str, Any]) -> dict[str, str]:
    """The given keys that ``resolve_keys`` leaves out because they do nothing here -> why."""
    return {written: NO_EFFECT[key] for key, written, _ in _entries(hyperparameters) if key in NO_EFFECT}


def check_value(key: str, value: Any) -> Any:
    """Validates the value of a canonical key and returns it as its field stores it.

    Raises:
        InvalidHyperparameter: the value is not what the field expects.
    """
    return FIELDS[key].check(key, value)


def check_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """``check_value`` for many canonical keys; all problems are raised together."""
    problems = Problems()
    checked: dict[str, Any] = {}
    for key, value in values.items():
        with problems.gather():
            if key not in FIELDS:
                raise _unknown(key)
            checked[key] = check_value(key, value)
    problems.raise_any()
    return checked
