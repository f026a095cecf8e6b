"""Typed fields in groups, for all that a user may set. Each says in words what it expects, and every error message about it quotes them.

The hyperparameters (``config.py``), the tune settings and the arguments of searchers and schedulers are all made of these.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictStr, TypeAdapter, ValidationError

from .errors import InvalidHyperparameter, did_you_mean


@dataclass(frozen=True)
class Expected:
    """What a field accepts, in words; every error message about the field quotes it."""

    words: str


class Mark(Enum):
    """What other modules must know about a field besides its value."""

    LIVE = "may change on a trained state, as population-based training does"
    BUILDING = "decides which weights are fetched, whether a model can be built, or of what kind it is"
    SIZE = "the greater it is, the larger is the model"
    DECODING = "decides what pictures are decoded for"
    TOKENS = "decides what texts are cut into, and at which length"
    TRAINING = "changes how a model learns, and nothing of what it computes of a row that it is only shown"


@dataclass(frozen=True)
class Fixed:
    """Marks a field that cannot vary between the trials of one search."""

    why: str


def unwrapped(value: Any) -> Any:
    """The Python value of a numpy scalar, as searchers and ``np.linspace`` give them; any other value as it is."""
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", None) == 0 else value


def _number(value: Any) -> int | float:
    value = unwrapped(value)
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            return float(value)  # such as "1e3", which integer fields accept too
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError("not a number")  # a boolean is an int to Python
    return value


def _not_zero(value: int) -> int:
    if value == 0:
        raise ValueError("zero")
    return value


Number = BeforeValidator(_number)
PositiveFloat = Annotated[float, Number, Field(gt=0, allow_inf_nan=False), Expected("a finite float > 0")]
NonNegativeFloat = Annotated[float, Number, Field(ge=0, allow_inf_nan=False), Expected("a finite float >= 0")]
Fraction = Annotated[float, Number, Field(ge=0, lt=1, allow_inf_nan=False), Expected("a float in [0, 1)")]
Share = Annotated[float, Number, Field(ge=0, le=1, allow_inf_nan=False), Expected("a float in [0, 1]")]
PositiveInt = Annotated[int, Number, Field(ge=1), Expected("an integer >= 1")]
NonNegativeInt = Annotated[int, Number, Field(ge=0), Expected("an integer >= 0")]
LimitInt = Annotated[int, Number, AfterValidator(_not_zero), Field(ge=-1), Expected("an integer >= 1, or -1 for no limit")]
ImageSize = Annotated[int, Number, Field(ge=8, le=4096), Expected("an integer in [8, 4096], or None")]
Text = Annotated[StrictStr, Field(min_length=1), Expected("a non-empty string")]
Flag = Annotated[StrictBool, BeforeValidator(unwrapped), Expected("True or False")]


class Section(BaseModel):
    """A frozen group of fields; the docstring under a field is its documentation."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


@dataclass(frozen=True)
class HyperField:
    """One leaf of the tree: a single value that a user may set."""

    adapter: TypeAdapter
    expected: str
    options: tuple[Any, ...]
    default: Any
    marks: frozenset[Mark]
    fixed: str
    """Why the value cannot vary between the trials of one search; empty if it can."""
    description: str

    def check(self, key: str, value: Any, error: type[Exception] = InvalidHyperparameter) -> Any:
        """Validates a value and returns it as the field stores it.

        Args:
            key: the user's name of the field, for the message.
            error: class of the exception to raise.

        Raises:
            error: the value is not what the field expects.
        """
        try:
            return self.adapter.validate_python(value)
        except ValidationError:
            words = [word for word in (value if isinstance(value, (list, tuple)) else [value]) if isinstance(word, str) and word not in self.options]
            hint = did_you_mean(words[0], self.options) if words else ""
            if error is InvalidHyperparameter and not hint and self._are_all(value):
                hint = f" To search among these: tune.choice({list(value)!r})."
            raise error(f"{key}: expected {self.expected}, got {value!r} ({type(value).__name__}).{hint}") from None

    def _are_all(self, value: Any) -> bool:
        """Whether a value is a list whose items the field accepts one by one."""
        if not isinstance(value, (list, tuple)) or not value:
            return False
        try:
            for item in value:
                self.adapter.validate_python(item)
        except ValidationError:
            return False
        return True


def _expected(hint: Any) -> str:
    """What a type hint expects, in words: its ``Expected`` mark, or the values of its Literal."""
    if get_origin(hint) is Annotated:
        inner, *marks = get_args(hint)
        return next((mark.words for mark in marks if isinstance(mark, Expected)), None) or _expected(inner)
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(repr(option) for option in get_args(hint))
    options = get_args(hint)  # X | None
    words = _expected(next(option for option in options if option is not type(None)))
    return words if "None" in words else f"{words}, or None"


def _options(hint: Any) -> tuple[Any, ...]:
    """The values that the Literals within a type hint allow."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    return tuple(option for part in get_args(hint) for option in _options(part))


def fields_of(section: type[Section], prefix: str = "") -> dict[str, HyperField]:
    """The leaves below a section, by dotted key, in order."""
    found: dict[str, HyperField] = {}
    hints = get_type_hints(section, include_extras=True)
    for name, info in section.model_fields.items():
        hint = hints[name]
        if isinstance(hint, type) and issubclass(hint, Section):
            found |= fields_of(hint, f"{prefix}{name}.")
        else:
            marks = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
            fixed = next((mark.why for mark in marks if isinstance(mark, Fixed)), "")
            own = frozenset(mark for mark in marks if isinstance(mark, Mark))
            found[prefix + name] = HyperField(TypeAdapter(hint), _expected(hint), _options(hint), info.default, own, fixed, info.description or "")
    return found
