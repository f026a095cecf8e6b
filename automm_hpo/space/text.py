"""Search spaces as text: for people, for fingerprints and for files."""

from __future__ import annotations

import functools
import hashlib
import types
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ..errors import InvalidSpace, Problems
from .kinds import Branch, Branches, Choice, Computed, Float, Int, Normal, SearchSpace, Space, text_of

KINDS: dict[str, type] = {kind.__name__: kind for kind in (Float, Int, Normal, Choice)}


def describe_space(space: SearchSpace) -> dict[str, str]:
    """Key -> a text that is the same in every process, and equal exactly when the spaces are.

    A computed value is identified by its function's name, bytecode and constants, so the same source may differ under another Python version.
    """
    return {key: _describe(domain) for key, domain in space.items()}


def _describe(domain: Space | Branches | Computed) -> str:
    if isinstance(domain, Computed):
        return f"{domain} {hashlib.sha256(_code_text(domain.function).encode()).hexdigest()[:12]}"
    if isinstance(domain, Branches):
        branches = [{key: text_of(value) for key, value in branch.fixed.items()} | describe_space(branch.space) for branch in domain.options]
        words = ", ".join("{" + ", ".join(f"{key}: {text}" for key, text in branch.items()) + "}" for branch in branches)
        return f"{'grid_search' if domain.exhaustive else 'choice'}([{words}])"
    return str(domain)


def _code_text(part: Any) -> str:
    """A text that identifies what a function computes, as far as that can be seen without running it."""
    match part:
        case types.CodeType():
            return f"{part.co_code.hex()} {part.co_names} {[_code_text(constant) for constant in part.co_consts]}"
        case types.FunctionType():
            closed_over = [_code_text(cell.cell_contents) for cell in part.__closure__ or ()]
            return f"{_code_text(part.__code__)} {text_of(part.__defaults__ or ())} {text_of(part.__kwdefaults__ or {})} {closed_over}"
        case types.MethodType():
            return _code_text(part.__func__)
        case functools.partial():
            return f"{_code_text(part.func)} {text_of(part.args)} {text_of(part.keywords)}"
        case frozenset():
            return str(sorted(map(text_of, part)))
    if callable(part) and not isinstance(part, type) and isinstance(call := type(part).__call__, types.FunctionType):
        return f"{text_of(type(part))} {_code_text(call)}"
    return text_of(part)


def space_to_json(space: SearchSpace) -> dict[str, Any]:
    """The space as JSON values, to be read back by ``space_from_json``.

    Raises:
        InvalidSpace, InvalidInput: it has functions or options that JSON cannot hold; all of them are listed by key.
    """
    problems = Problems()
    written: dict[str, Any] = {}
    for key, domain in space.items():
        with problems.gather():
            written[key] = _domain_to_json(key, domain)
    problems.raise_any()
    return written


def _domain_to_json(key: str, domain: Space | Branches | Computed) -> dict[str, Any]:
    if isinstance(domain, Computed):
        raise InvalidSpace(f"{key}: sample_from holds a function, which cannot be saved")
    if isinstance(domain, Branches):
        return {"kind": "Branches", "options": list(map(_branch_to_json, domain.options)), "exhaustive": domain.exhaustive}
    return {"kind": type(domain).__name__} | {field.name: _value_to_json(key, getattr(domain, field.name)) for field in fields(domain)}


def _branch_to_json(branch: Branch) -> dict[str, Any]:
    problems = Problems()
    fixed: dict[str, Any] = {}
    for key, value in branch.fixed.items():
        with problems.gather():
            fixed[key] = _value_to_json(key, value)
    with problems.gather():
        space = space_to_json(branch.space)
    problems.raise_any()
    return {"fixed": fixed, "space": space}


def space_from_json(written: Mapping[str, Any]) -> dict[str, Space | Branches | Computed]:
    """The inverse of ``space_to_json``."""
    return {key: _domain_from_json(domain) for key, domain in written.items()}


def _domain_from_json(written: Mapping[str, Any]) -> Space | Branches | Computed:
    if written["kind"] == "Branches":
        branches = [
            Branch({key: _value_from_json(value) for key, value in branch["fixed"].items()}, space_from_json(branch["space"])) for branch in written["options"]
        ]
        return Branches(tuple(branches), written["exhaustive"])
    return KINDS[written["kind"]](**{name: _value_from_json(value) for name, value in written.items() if name != "kind"})


def _value_to_json(key: str, value: Any) -> Any:
    """Wraps lists, tuples and dicts in a one-entry dict that names the type, so that tuples and lists stay distinct."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case tuple() | list():
            return {type(value).__name__: [_value_to_json(key, inner) for inner in value]}
        case dict() if all(isinstance(name, str) for name in value):
            return {"dict": {name: _value_to_json(key, inner) for name, inner in value.items()}}
    raise InvalidSpace(f"{key}: {value!r} ({type(value).__name__}) cannot be written to a file; numbers, texts, booleans, None, lists and dicts can")


def _value_from_json(written: Any) -> Any:
    match written:
        case {"tuple": inner}:
            return tuple(map(_value_from_json, inner))
        case {"list": inner}:
            return list(map(_value_from_json, inner))
        case {"dict": inner}:
            return {name: _value_from_json(value) for name, value in inner.items()}
    return written
