"""Networks on columns of numbers and categories: (B, Dn) float32 of about N(0, 1), and (B, Dc) int64 codes, where 0 is an unknown category."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..config import Config
from ..config import FtTransformer as FtTransformerConfig
from ..data.batch import Batch
from ..data.features import Features
from ..errors import InvalidHyperparameter
from .backbone import Backbone

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU, "leaky_relu": nn.LeakyReLU, "gelu": nn.GELU, "selu": nn.SELU, "silu": nn.SiLU, "mish": nn.Mish,
}  # fmt: skip
MOST_INDICATORS = 100  # per column of categories
NORMALIZATIONS: dict[str, type[nn.Module]] = {"layer_norm": nn.LayerNorm, "batch_norm": nn.BatchNorm1d, "none": nn.Identity}


class Dropout(nn.Dropout):
    """torch's dropout, but faster on a CPU: sixteen random bits decide on each value. torch's Bernoulli draws take a seventh of a step's time there.

    The probability is rounded to a multiple of 2^-16, and the kept values are scaled by the rounded one.
    """

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        dropped = round(self.p * 2**16)
        if not self.training or dropped in (0, 2**16) or inputs.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(inputs)
        words = torch.empty(-(-inputs.numel() // 4), dtype=torch.int64).random_(-(2**63), None)  # all 64 bits are random
        bits = words.view(torch.int16)[: inputs.numel()].view(inputs.shape)
        factors = torch.ge(bits, dropped - 2**15, out=torch.empty_like(inputs, requires_grad=False, memory_format=torch.contiguous_format))
        return inputs * factors.mul_(2**16 / (2**16 - dropped))


def mlp(num_inputs: int, sizes: Sequence[int], activation: str, normalization: str, dropout: float) -> nn.Sequential:
    """A plain multilayer perceptron. Each layer is linear, followed by normalisation, activation and dropout."""
    layers: list[nn.Module] = []
    for before, after in zip([num_inputs, *sizes], sizes, strict=False):
        layers += [nn.Linear(before, after), NORMALIZATIONS[normalization](after), ACTIVATIONS[activation](), Dropout(dropout)]
    return nn.Sequential(*layers)


@dataclass(frozen=True)
class Columns:
    """Columns as a linear model reads them: (B, Dn) numbers as they are, and an indicator for each known category.

    Columns of more than ``MOST_INDICATORS`` categories are left out; only the networks read them.

    Args:
        features: what the table has.
        reads: the fields of ``features`` to use; fields of other modalities add nothing.
    """

    features: Features
    reads: tuple[str, ...]

    @property
    def num_features(self) -> int:
        numbers = len(self.features.numeric) if "numeric" in self.reads else 0
        return numbers + sum(num_codes - 1 for _, num_codes in self._categories)

    @property
    def scores(self) -> range:
        """Indices of the n-gram scores of texts among these features."""
        last = len(self.features.numeric) if "numeric" in self.reads else 0
        return range(last - self.features.num_scores if last else 0, last)

    def __call__(self, batch: Batch) -> torch.Tensor:
        numbers = batch.numeric if "numeric" in self.reads else batch.numeric[:, :0]
        return torch.cat([numbers, *(F.one_hot(batch.categorical[:, column], num_codes)[:, 1:].float() for column, num_codes in self._categories)], 1)

    @property
    def _categories(self) -> list[tuple[int, int]]:
        if "cardinalities" not in self.reads:
            return []
        return [(column, num_codes) for column, num_codes in enumerate(self.features.cardinalities) if num_codes - 1 <= MOST_INDICATORS]


class NumericalMlp(Backbone):
    """A multilayer perceptron on (B, Dn) numbers."""

    def __init__(self, config: Config, features: Features) -> None:
        super().__init__()
        own = config.model.numerical_mlp
        self.num_features = own.hidden_size
        self.layers = mlp(len(features.numeric), [own.hidden_size] * own.num_layers, own.activation, own.normalization, own.dropout)

    def forward(self, batch: Batch) -> torch.Tensor:
        return self.layers(batch.numeric)


class CategoricalMlp(Backbone):
    """An embedding for each column of (B, Dc) categories, then a multilayer perceptron."""

    def __init__(self, config: Config, features: Features) -> None:
        super().__init__()
        own = config.model.categorical_mlp
        self.num_features = own.hidden_size
        dims = [min(own.max_embedding_dim, round(1.6 * num_codes**0.56)) for num_codes in features.cardinalities]
        self.embeddings = nn.ModuleList(Categories(num_codes, dim) for num_codes, dim in zip(features.cardinalities, dims, strict=True))
        self.layers = mlp(sum(dims), [own.hidden_size] * own.num_layers, own.activation, own.normalization, own.dropout)

    def forward(self, batch: Batch) -> torch.Tensor:
        columns = zip(self.embeddings, batch.categorical.unbind(1), strict=True)
        return self.layers(torch.cat([embedding(codes) for embedding, codes in columns], 1))


class Categories(nn.Embedding):
    """Embeddings of one column's codes. Code 0, for unknown and rare categories, stays a zero vector instead of a random one."""

    def __init__(self, num_codes: int, dim: int) -> None:
        super().__init__(num_codes, dim, padding_idx=0)


# -------------------------------------------------------------------------------------------------------------- ft_transformer


class FtTransformer(Backbone):
    """Transformer blocks on one token per column and one reading token, whose final state is the output.

    Gorishniy et al. 2021, "Revisiting deep learning models for tabular data" (arXiv:2106.11959).
    """

    def __init__(self, config: Config, features: Features) -> None:
        super().__init__()
        own = config.model.ft_transformer
        self.num_features = dim = own.token_dim
        num_columns = len(features.numeric) + len(features.cardinalities)
        self.number_weight = nn.Parameter(torch.empty(len(features.numeric), dim)) if features.numeric else None
        self.categories = nn.ModuleList(Categories(num_codes, dim) for num_codes in features.cardinalities)
        self.column_bias = nn.Parameter(torch.empty(num_columns, dim))
        self.reader = nn.Parameter(torch.empty(1, 1, dim))
        self.blocks = nn.ModuleList(FtBlock(own, last=number == own.num_blocks - 1) for number in range(own.num_blocks))
        self.norm = nn.LayerNorm(dim)
        for parameter in (self.number_weight, self.column_bias, self.reader, *self.categories.parameters()):
            if parameter is not None:
                nn.init.uniform_(parameter, -(dim**-0.5), dim**-0.5)
        for embedding in self.categories.children():
            nn.init.zeros_(embedding.get_parameter("weight")[0].detach())

    def forward(self, batch: Batch) -> torch.Tensor:
        tokens = [] if self.number_weight is None else [batch.numeric.unsqueeze(-1) * self.number_weight]  # (B, Dn, E)
        tokens += [embedding(codes).unsqueeze(1) for embedding, codes in zip(self.categories, batch.categorical.unbind(1), strict=True)]
        columns = torch.cat(tokens, 1) + self.column_bias
        states = torch.cat([self.reader.expand(len(columns), -1, -1), columns], 1)  # (B, 1 + D, E)
        for block in self.blocks:
            states = block(states)
        return F.relu(self.norm(states[:, 0]))

    def no_weight_decay(self) -> set[str]:
        """The parameters of the tokens."""
        return {"number_weight", "column_bias", "reader", *(f"categories.{index}.weight" for index in range(len(self.categories)))}


class FtBlock(nn.Module):
    """Attention, then a gated feed-forward layer, each after a layer norm. The last block computes only the reading token."""

    def __init__(self, own: FtTransformerConfig, last: bool) -> None:
        super().__init__()
        dim, ffn_hidden_size = own.token_dim, own.ffn_hidden_size
        self.num_heads, self.attention_dropout, self.last = own.attention_num_heads, own.attention_dropout, last
        self.attention_norm, self.ffn_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim) for _ in range(4))
        self.gate, self.up, self.down = nn.Linear(dim, ffn_hidden_size), nn.Linear(dim, ffn_hidden_size), nn.Linear(ffn_hidden_size, dim)
        self.ffn_dropout, self.residual_dropout = Dropout(own.ffn_dropout), Dropout(own.residual_dropout)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        normed = self.attention_norm(states)  # (B, T, E)
        asking = 1 if self.last else states.shape[1]
        query, key, value = (self._heads(part) for part in (self.query(normed[:, :asking]), self.key(normed), self.value(normed)))
        attended = F.scaled_dot_product_attention(query, key, value, dropout_p=self.attention_dropout if self.training else 0.0)
        states = states[:, :asking] + self.residual_dropout(self.out(attended.transpose(1, 2).flatten(2)))
        normed = self.ffn_norm(states)
        return states + self.residual_dropout(self.down(self.ffn_dropout(F.gelu(self.gate(normed)) * self.up(normed))))

    def _heads(self, states: torch.Tensor) -> torch.Tensor:
        return states.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, heads, T, E / heads)


def check_ft_transformer(config: Config) -> None:
    """Refuses incompatible sizes.

    Raises:
        InvalidHyperparameter: ``token_dim`` is not a multiple of ``attention_num_heads``.
    """
    own = config.model.ft_transformer
    if own.token_dim % own.attention_num_heads:
        raise InvalidHyperparameter(
            f"model.ft_transformer.token_dim: expected a multiple of attention_num_heads, got {own.token_dim} and {own.attention_num_heads} heads"
        )


# -------------------------------------------------------------------------------------------------------------------- real_mlp


def check_real_mlp(config: Config) -> None:
    """Refuses members that cannot share the folds evenly.

    Raises:
        InvalidHyperparameter: ``num_members`` is not a multiple of ``data.num_folds``.
    """
    num_members, num_folds = config.model.real_mlp.num_members, config.data.num_folds
    if num_folds and num_members % num_folds:
        raise InvalidHyperparameter(
            f"model.real_mlp.num_members: expected a multiple of data.num_folds, {num_folds}, so that as many networks leave out each fold, got {num_members}"
        )


class RealMlp(Backbone):
    """A multilayer perceptron designed for tables.

    Holzmüller, Grinsztajn, Steinwart 2024, "Better by default: strong pre-tuned MLPs and boosted trees on tabular data" (arXiv:2407.04491).

    Numbers are embedded with learned frequencies. Columns of few categories are one-hot, others embedded. Each input has a learned scale, layers
    use the neural tangent parametrisation, and each unit learns its share of the activation.

    Several members are trained side by side, each on its own loss (``TableModel.training_logits``). Their mean is better than one network, and costs less
    than as many separate models. They share no weights, so that a member knows nothing of the rows that it leaves out (``data.num_folds``).
    """

    def __init__(self, config: Config, features: Features) -> None:
        super().__init__()
        check_real_mlp(config)
        own = config.model.real_mlp
        self.num_members, self.num_features, self.lr_mult = own.num_members, own.num_members * own.hidden_size, own.lr_mult
        num_numbers = len(features.numeric)
        widths = own.embedding_hidden_size, own.embedding_dim
        self.numbers = NumberEmbedding(own.num_members, num_numbers, *widths, own.frequency_scale) if num_numbers else None
        categories = [
            OneHot(num_codes) if num_codes - 1 <= own.one_hot_limit else MemberCategories(own.num_members, num_codes, own.category_dim)
            for num_codes in features.cardinalities
        ]
        self.categories = nn.ModuleList(categories)
        num_inputs = num_numbers * own.embedding_dim + sum(embedding.width for embedding in categories)
        self.input_scale = nn.Parameter(torch.ones(self.num_members, 1, num_inputs))
        layers: list[nn.Module] = []
        for before in [num_inputs] + [own.hidden_size] * (own.num_layers - 1):
            layers += [TangentLinear(self.num_members, before, own.hidden_size), LearnedActivation(self.num_members, own.hidden_size, own.activation)]
            layers.append(Dropout(own.dropout))
        self.layers = nn.Sequential(*layers)

    def forward(self, batch: Batch) -> torch.Tensor:
        inputs = [] if self.numbers is None else [self.numbers(batch.numeric)]
        inputs += [embedding(codes).expand(self.num_members, -1, -1) for embedding, codes in zip(self.categories, batch.categorical.unbind(1), strict=True)]
        states = self.layers(torch.cat(inputs, 2) * self.input_scale)  # (members, B, hidden)
        return states.transpose(0, 1).flatten(1) / self.num_members  # so a linear head on all members is the mean of its outputs for each

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        """Takes the weights of predictors from before 2026-11-24 too, whose members had their embeddings in common: each gets a copy."""
        for name in [name for name in state_dict if name.startswith(f"{prefix}numbers.")]:
            own = self.get_parameter(name.removeprefix(prefix))
            if state_dict[name].ndim < own.ndim:
                state_dict[name] = state_dict[name].expand(own.shape)
        for name in [name for name in state_dict if re.fullmatch(rf"{re.escape(prefix)}categories\.\d+\.weight", name)]:
            state_dict[name.removesuffix("weight") + "vectors.weight"] = state_dict.pop(name).repeat(1, self.num_members)
        super()._load_from_state_dict(state_dict, prefix, *others)

    def no_weight_decay(self) -> set[str]:
        """The scales of inputs and activations."""
        return {name for name, _ in self.named_parameters() if name == "input_scale" or name.endswith(".share")}

    def lr_scales(self, decay: float) -> dict[str, float]:
        """``lr_mult`` times the paper's factors."""

        def scale(name: str) -> float:
            if name == "input_scale":
                return 6.0
            return 0.1 if name.startswith("numbers.") or name.endswith((".bias", ".share")) else 1.0

        return {name: self.lr_mult * scale(name) for name, _ in self.named_parameters()}


class NumberEmbedding(nn.Module):
    """Turns each number x into (x, W cos(2 pi f x + p) + b), with f, p, W and b learned for each member and column; "PBLD" in the paper."""

    def __init__(self, num_members: int, num_columns: int, hidden_size: int, dim: int, frequency_scale: float) -> None:
        super().__init__()
        reach, sizes = hidden_size**-0.5, (num_members, num_columns, hidden_size)
        self.frequency = nn.Parameter(2 * math.pi * frequency_scale * torch.randn(sizes))
        self.phase = nn.Parameter(math.pi * (2 * torch.rand(sizes) - 1))
        self.weight = nn.Parameter(reach * (2 * torch.rand(*sizes, dim - 1) - 1))
        self.bias = nn.Parameter(reach * (2 * torch.rand(num_members, num_columns, dim - 1) - 1))

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        """(B, Dn) -> (members, B, Dn * dim)."""
        waves = torch.cos(numbers.unsqueeze(-1) * self.frequency.unsqueeze(1) + self.phase.unsqueeze(1))  # (members, B, Dn, hidden)
        embedded = torch.einsum("mbdh,mdhe->mbde", waves, self.weight) + self.bias.unsqueeze(1)
        own = numbers.to(embedded.dtype).expand(len(embedded), -1, -1).unsqueeze(-1)
        return torch.cat([own, embedded], -1).flatten(2)


class OneHot(nn.Module):
    """A column's codes as indicators. Two categories become -1 and 1; an unknown category becomes zeros."""

    def __init__(self, num_codes: int) -> None:
        super().__init__()
        rows = torch.tensor([[0.0], [-1.0], [1.0]]) if num_codes == 3 else torch.eye(num_codes)[:, 1:]
        self.width = rows.shape[1]
        self.rows: torch.Tensor
        self.register_buffer("rows", rows, persistent=False)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        return F.embedding(codes, self.rows)


class MemberCategories(nn.Module):
    """Embeddings of one column's codes, each member's own."""

    def __init__(self, num_members: int, num_codes: int, dim: int) -> None:
        super().__init__()
        self.num_members, self.width = num_members, dim
        self.vectors = Categories(num_codes, num_members * dim)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """(B,) -> (members, B, dim)."""
        return self.vectors(codes).unflatten(1, (self.num_members, -1)).transpose(0, 1)


class TangentLinear(nn.Module):
    """x W / sqrt(number of inputs) + b, with W and b initialised from N(0, 1), so that the learning rate need not depend on the layer's width."""

    def __init__(self, num_members: int, num_inputs: int, num_outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_members, num_inputs, num_outputs))
        self.bias = nn.Parameter(torch.randn(num_members, 1, num_outputs))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(members, B, inputs) -> (members, B, outputs)."""
        return torch.baddbmm(self.bias, inputs, self.weight, alpha=self.weight.shape[1] ** -0.5)


class LearnedActivation(nn.Module):
    """x + a (activation(x) - x), with a learned a for each unit, starting at 1."""

    def __init__(self, num_members: int, num_units: int, activation: str) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]()
        self.share = nn.Parameter(torch.ones(num_members, 1, num_units))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.lerp(inputs, self.activation(inputs), self.share.to(inputs.dtype))
