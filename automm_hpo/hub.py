"""Files of the Hugging Face hub: at hand, or fetched, or refused within seconds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from .errors import WeightsUnavailable

TIMEOUT = 5.0  # seconds; the hub's own client would retry for the better part of a minute
_failed: tuple[float, Exception] = (-math.inf, ConnectionError())  # when the hub was last out of reach, and how


def cached(repo: str, file: str, revision: str | None = None) -> Path | None:
    """Where a repository's file lies on this machine, if it does."""
    import huggingface_hub

    found = huggingface_hub.try_to_load_from_cache(repo, file, revision=revision)
    return Path(found) if isinstance(found, str) else None


def ask(repo: str, revision: str | None = None) -> set[str]:
    """The names of a repository's files.

    Raises:
        Exception: the hub has no such repository, or does not answer within seconds.
    """
    import huggingface_hub

    global _failed
    if time.monotonic() - _failed[0] < 4 * TIMEOUT:  # the next of several models need not wait as long again
        raise _failed[1]
    try:
        return {file.rfilename for file in huggingface_hub.HfApi().model_info(repo, revision=revision, timeout=TIMEOUT).siblings or ()}
    except huggingface_hub.errors.HfHubHTTPError:
        raise
    except Exception as error:  # it did not answer at all
        _failed = (time.monotonic(), error)
        raise


def fetch(repo: str, revision: str | None, choose: Callable[[set[str]], Iterable[str]], what: str, ways_out: str) -> None:
    """Downloads files of a repository into the hub's cache, where all trials find them.

    Args:
        choose: which of the names of its files.
        what, ways_out: for the message.

    Raises:
        WeightsUnavailable: they cannot be had.
    """
    import huggingface_hub

    try:
        for file in choose(ask(repo, revision)):
            huggingface_hub.hf_hub_download(repo, file, revision=revision)
    except Exception as error:  # no network, no such repository, no space, ...
        raise WeightsUnavailable(f"{what} (hub repository {repo}) cannot be fetched: {type(error).__name__}. {ways_out}") from None
