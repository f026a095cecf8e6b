"""What identifies a user's code across processes: the byte code of a function or class, without the modules that it calls."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from types import CodeType
from typing import Any

from .files import digest


def code_digest(thing: Any) -> str:
    """Changes with the code of a function, a class, a callable object or a ``functools.partial``; empty if Python does not have its code.

    Comments, names of files and line numbers do not count, nor does the state of an object. Begins with the version of Python, because another one compiles
    the same source to other code.

    >>> code_digest(lambda x: x + 1) == code_digest(lambda x: x + 1), code_digest(lambda x: x + 1) == code_digest(lambda x: x + 2)
    (True, False)
    """
    parts = list(_parts(thing))
    return "{}.{} ".format(*sys.version_info[:2]) + digest(parts) if parts else ""


def is_other_code(before: str, now: str) -> bool:
    """Whether two digests of the same version of Python differ."""
    return bool(before and now) and before.split()[0] == now.split()[0] and before != now


def _parts(thing: Any) -> Iterator[Any]:
    if isinstance(thing, functools.partial):
        yield from _parts(thing.func)
    elif isinstance(thing, type):
        for name, member in vars(thing).items():
            if hasattr(member, "__code__"):
                yield name, *_parts(member)
    elif isinstance(code := getattr(thing, "__code__", None), CodeType):
        yield from _of_code(code)
    elif not hasattr(thing, "__name__"):
        yield from _parts(type(thing))


def _of_code(code: CodeType) -> Iterator[Any]:
    yield code.co_code.hex(), code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _of_code(constant)
        else:
            yield sorted(map(repr, constant)) if isinstance(constant, frozenset) else repr(constant)
