"""Files of the Hugging Face hub: taken from the cache or downloaded. If the hub cannot be reached, that is known within seconds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from .errors import WeightsUnavailable

TIMEOUT = 5.0  # seconds; the hub's own client would retry for the better part of a minute
_failed: tuple[float, Exception] = (-math.inf, ConnectionError())  # when the hub last failed to answer, and the error


def cached(repo: str, file: str, revision: str | None = None) -> Path | None:
    """The path of a repository's file in this machine's cache; None if it is not there."""
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
    if time.monotonic() - _failed[0] < 4 * TIMEOUT:  # so that the next of several models does not wait as long again
        raise _failed[1]
    try:
        return {file.rfilename for file in huggingface_hub.HfApi().model_info(repo, revision=revision, timeout=TIMEOUT).siblings or ()}
    except huggingface_hub.errors.HfHubHTTPError:
        raise
    except Exception as error:  # the hub did not answer at all
        _failed = (time.monotonic(), error)
        raise


def fetch(repo: str, revision: str | None, choose: Callable[[set[str]], Iterable[str]], what: str, ways_out: str) -> None:
    """Downloads files of a repository into the hub's cache, where all trials find them.

    Args:
        choose: selects the files to download from the names of all files.
        what, ways_out: for the error message: what is to be fetched, and what the user can do if it cannot be.

    Raises:
        WeightsUnavailable: the files cannot be fetched.
    """
    import huggingface_hub

    try:
        for file in choose(ask(repo, revision)):
            huggingface_hub.hf_hub_download(repo, file, revision=revision)
    except Exception as error:  # no network, no such repository, no space, ...
        raise WeightsUnavailable(f"{what} (hub repository {repo}) cannot be fetched: {type(error).__name__}. {ways_out}") from None
