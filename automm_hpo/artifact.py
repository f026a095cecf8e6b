"""The predictor on disk: a folder that moves, holds no pickle, and is verified file by file when it is read.

A commit is a journal: the files are written as ``<name>.new``, then ``MANIFEST.json.new`` seals them, then all are renamed. A kill
before the seal leaves the old predictor, one after it the new; a reader follows the same rule and needs no write access.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from .config import Config
from .data.columns import ColumnTypes
from .data.encoders import Encoders
from .errors import NotAPredictor
from .files import MANIFEST, check_files, manifest_of, read_json, write_json
from .metrics import find_metric
from .models import build_model, describe_source, remember_source
from .problem import Problem
from .training.checkpoint import load_weights, save_weights

FORMAT, FORMAT_VERSION = "automm_hpo predictor", 1
PREDICTOR, ENCODERS, WEIGHTS = "predictor.json", "encoders.json", "model.safetensors"
FILES = (PREDICTOR, ENCODERS, WEIGHTS)


@dataclass(frozen=True)
class Artifact:
    """All that predicting needs.

    Attributes:
        summary: what ``fit_summary`` says, JSON values.
    """

    problem: Problem
    columns: ColumnTypes
    encoders: Encoders
    config: Config
    model: nn.Module
    eval_metric: str
    validation_metric: str
    summary: Mapping[str, Any]

    def with_summary(self, **more: Any) -> Artifact:
        return replace(self, summary={**self.summary, **more})


def save_artifact(artifact: Artifact, folder: Path) -> None:
    """Commits a predictor to a folder, all or nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / f"{MANIFEST}.new").exists():
        _roll_forward(folder)
    description = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "problem": artifact.problem.to_json(),
        # a list: a column's name need not be a string, which a JSON key must be
        "columns": [[column, kind, artifact.columns.reasons[column]] for column, kind in artifact.columns.items()],
        "config": artifact.config.flat(),
        "model_source": describe_source(artifact.config),
        "eval_metric": artifact.eval_metric,
        "validation_metric": artifact.validation_metric,
        "summary": dict(artifact.summary),
        "versions": library_versions(),
    }
    write_json(folder / f"{PREDICTOR}.new", description)
    write_json(folder / f"{ENCODERS}.new", artifact.encoders.to_json())
    save_weights(artifact.model, folder / f"{WEIGHTS}.new")
    _flush(folder / f"{WEIGHTS}.new")
    manifest = manifest_of(folder, [f"{name}.new" for name in FILES])
    write_json(folder / f"{MANIFEST}.new", {name.removesuffix(".new"): digest for name, digest in manifest.items()})
    _roll_forward(folder)


def load_artifact(folder: Path) -> Artifact:
    """Reads a predictor; nothing in the folder is executed.

    Raises:
        NotAPredictor: the folder is none of ours, or of a newer format.
        CorruptFile: a file is not as it was written.
    """
    places = _places(folder)
    description, encoders = read_json(places[PREDICTOR]), read_json(places[ENCODERS])
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise NotAPredictor(f"{folder} was not written by automm_hpo")
    version = description.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise NotAPredictor(f"{folder} has format {version!r}, this version reads up to {FORMAT_VERSION}; upgrade automm_hpo")
    try:
        problem, config = Problem.from_json(description["problem"]), Config.from_flat(description["config"])
        remember_source(config, description["model_source"])
        columns = {column: (kind, reason) for column, kind, reason in description["columns"]}
        artifact = Artifact(
            problem,
            ColumnTypes({column: kind for column, (kind, _) in columns.items()}, {column: reason for column, (_, reason) in columns.items()}),
            Encoders.from_json(encoders),
            config,
            build_model(config, problem.num_outputs, load_weights=False),
            find_metric(description["eval_metric"], "eval_metric").name,
            find_metric(description["validation_metric"], "validation_metric").name,
            dict(description["summary"]),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:  # the checksums are right, and yet it is not as we write it
        raise NotAPredictor(f"{folder}: its {PREDICTOR} or {ENCODERS} is not as this version writes it: {type(error).__name__}: {error}") from None
    load_weights(artifact.model, places[WEIGHTS])
    return artifact


def is_predictor(folder: Path) -> bool:
    return (folder / MANIFEST).is_file() or (folder / f"{MANIFEST}.new").is_file()


def _places(folder: Path) -> dict[str, Path]:
    """Where each file of the committed predictor lies, verified."""
    if not folder.is_dir():
        raise NotAPredictor(f"no such folder: {folder}")
    if not is_predictor(folder):
        hint = "; its search never finished" if (folder / "search").is_dir() else ""
        raise NotAPredictor(f"{folder} holds no predictor: {MANIFEST} is missing{hint}")
    sealed = (folder / f"{MANIFEST}.new").is_file()
    manifest = read_json(folder / (f"{MANIFEST}.new" if sealed else MANIFEST))
    if not isinstance(manifest, dict) or set(manifest) != set(FILES):
        raise NotAPredictor(f"{folder} was not written by automm_hpo: its {MANIFEST} does not list {', '.join(FILES)}")
    new = {name: folder / f"{name}.new" for name in FILES}
    places = {name: new[name] if sealed and new[name].exists() else folder / name for name in FILES}
    check_files(places, manifest)
    return places


def _roll_forward(folder: Path) -> None:
    for name in (*FILES, MANIFEST):  # the seal last: until it goes, a reader knows that a commit is under way
        if (folder / f"{name}.new").exists():
            os.replace(folder / f"{name}.new", folder / name)


def _flush(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def library_versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    names = ("automm_hpo", "torch", "timm", "ray", "optuna", "mlflow", "pandas", "scikit-learn", "numpy")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found
