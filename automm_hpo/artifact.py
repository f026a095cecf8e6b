"""The predictor on disk: a folder that can be moved, holds no pickle, and is verified file by file when it is read.

A commit works like a journal: the files are written as ``<name>.new``, then ``MANIFEST.json.new`` seals them, then all are renamed and
weights that the manifest no longer lists are deleted. A kill before the seal leaves the old predictor, a kill after it the new one.
Readers follow the same rule and need no write access.
"""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors.torch import load_file

from .config import Config
from .data.batch import Batch, TensorCache
from .data.columns import ColumnTypes
from .data.encoders import Encoders
from .data.features import Features
from .data.seen import digests_from_text, digests_to_text
from .errors import CorruptFile, NotAPredictor
from .files import MANIFEST, check_files, is_predictor, manifest_of, read_json, write_json
from .metrics import stored_metric
from .models import TableModel, build_model
from .problem import Problem
from .process import callers_level
from .rng import generators_unchanged, seeded
from .training.checkpoint import load_weights, save_tensors, save_weights
from .training.device import is_out_of_memory, pick_device
from .training.ensemble import combine_logits
from .training.evaluate import predict_logits
from .training.threshold import HALF

FORMAT, FORMAT_VERSION = "automm_hpo predictor", 3  # versions 1 and 2 had models of a single image column, with other names of weights
PREDICTOR, ENCODERS, VALIDATED = "predictor.json", "encoders.json", "validation.safetensors"


def weights_name(number: int) -> str:
    """The file name of a member's weights: ``model.safetensors``, ``model-1.safetensors``, ..."""
    return f"model-{number}.safetensors" if number else "model.safetensors"


WEIGHTS_NAME = re.compile(r"model(-[1-9]\d*)?\.safetensors(\.new)?")


@dataclass(frozen=True)
class Member:
    """A model and its weight among the predictor's members.

    Attributes:
        temperature: what its logits are divided by before they are combined with other members'.
        predicting: the copy of the model that predicts, on its device, with batch norm folded where possible; None until ``ready``.
    """

    config: Config
    model: TableModel
    weight: float = 1.0
    temperature: float = 1.0
    predicting: TableModel | None = None

    def ready(self) -> Self:
        """The member with its model on its device, and a copy of the model that predicts fast. If a GPU is full, they stay on the CPU."""
        try:
            return self._ready_on(pick_device(self.config.env))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        warnings.warn("the GPU's memory is full: the model predicts on the CPU", stacklevel=callers_level())
        return self._ready_on(torch.device("cpu"))

    def _ready_on(self, device: torch.device) -> Self:
        return replace(self, predicting=self.model.to(device).to(memory_format=torch.channels_last).folded())


@dataclass(frozen=True)
class ValidatedRows:
    """The rows that a predictor was chosen by, and its predictions for them.

    Attributes:
        rows: (N,) int64, positions in the user's table.
        target: (N,) as ``Problem.encode`` gives it.
        logits: (N, num_outputs), before calibration.
    """

    rows: np.ndarray
    target: np.ndarray
    logits: torch.Tensor

    def save(self, path: Path) -> None:
        save_tensors({"rows": torch.from_numpy(self.rows), "target": torch.from_numpy(self.target), "logits": self.logits.float()}, path)

    @classmethod
    def load(cls, path: Path) -> Self:
        stored = load_file(path)
        return cls(stored["rows"].numpy(), stored["target"].numpy(), stored["logits"])


@dataclass(frozen=True)
class Artifact:
    """Everything that prediction needs.

    Attributes:
        members: the models whose predictions are averaged, at least one; their weights sum to 1.
        summary: what ``fit_summary`` returns, as JSON values.
        temperature: what the logits of classes are divided by in the end, see ``training/calibration.py``.
        decision_threshold: above which probability of the positive class, see ``training/threshold.py``.
        seen: (N,) uint32, ``row_digests`` of the rows that the models were trained on; empty if unknown.
        validated: predictions of the rows to validate on; of a refit, the best trial's; None if unknown.
    """

    problem: Problem
    columns: ColumnTypes
    encoders: Encoders
    members: tuple[Member, ...]
    eval_metric: str
    validation_metric: str
    summary: Mapping[str, Any]
    temperature: float = 1.0
    decision_threshold: float = HALF
    seen: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint32), repr=False, compare=False)
    validated: ValidatedRows | None = field(default=None, repr=False, compare=False)

    @property
    def config(self) -> Config:
        """The first member's config. How data are read is the same for all members."""
        return self.members[0].config

    def with_summary(self, **more: Any) -> Artifact:
        return replace(self, summary={**self.summary, **more})

    def sources_for(self, config: Config) -> Mapping[str, Any] | None:
        """The ``sources`` to build a model of this config from (see ``build_model``), if a member has the same pretrained backbones; else None."""
        names = config.model.timm_image.checkpoint_name, config.model.hf_text.checkpoint_name
        own = ((member.config.model, member.model) for member in self.members)
        return next((model.sources for known, model in own if (known.timm_image.checkpoint_name, known.hf_text.checkpoint_name) == names), None)

    def logits(self, data: TensorCache) -> torch.Tensor:
        """(N, num_outputs) logits of all members combined and calibrated, on the CPU."""
        logits = [predict_logits(member.predicting or member.model, data, member.config.env) / member.temperature for member in self.members]
        return combine_logits(self.problem, logits, [member.weight for member in self.members]) / self.temperature


@dataclass(frozen=True)
class Embedder:
    """Turns rows into feature vectors.

    Attributes:
        trained: False: nothing was trained, so the fusion is left out and the backbones' features are concatenated.
    """

    config: Config
    encoders: Encoders
    model: TableModel
    trained: bool = True

    @classmethod
    def build(cls, config: Config, encoders: Encoders) -> Self:
        """Builds an embedder from pretrained models. Weights that begin at random are the same each time."""
        device = pick_device(config.env)
        with generators_unchanged(device), seeded(0):
            model = build_model(config, encoders.features, 1)
        return cls(config, encoders, model.to(device).to(memory_format=torch.channels_last), trained=False)

    @property
    def num_features(self) -> int:
        return self.model.head.in_features if self.trained else sum(backbone.num_features for backbone in self.model.backbones.values())

    def embed(self, data: TensorCache) -> torch.Tensor:
        """(N, num_features) float32 on the CPU."""

        def side_by_side(batch: Batch) -> torch.Tensor:
            return torch.cat([backbone(batch) for backbone in self.model.backbones.values()], 1)

        return predict_logits(self.model, data, self.config.env, self.model.features if self.trained else side_by_side)


def save_artifact(artifact: Artifact, folder: Path) -> None:
    """Commits a predictor to a folder, all or nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / f"{MANIFEST}.new").exists():
        _roll_forward(folder)
    members = [
        {"config": member.config.flat(), "model_source": member.model.sources, "weight": member.weight, "temperature": member.temperature}
        for member in artifact.members
    ]
    description = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "problem": artifact.problem.to_json(),
        # a list, not a dict: a column's name need not be a string, but a JSON key must be
        "columns": [[column, kind, artifact.columns.reasons[column]] for column, kind in artifact.columns.items()],
        "members": members,
        "eval_metric": artifact.eval_metric,
        "validation_metric": artifact.validation_metric,
        "summary": dict(artifact.summary),
        "temperature": artifact.temperature,
        "decision_threshold": artifact.decision_threshold,
        "seen": digests_to_text(artifact.seen),
        "versions": library_versions(),
    }
    write_json(folder / f"{PREDICTOR}.new", description)
    write_json(folder / f"{ENCODERS}.new", artifact.encoders.to_json())
    for number, member in enumerate(artifact.members):
        path = folder / f"{weights_name(number)}.new"
        save_weights(member.model, path)
        _flush(path)
    if artifact.validated is not None:
        artifact.validated.save(folder / f"{VALIDATED}.new")
        _flush(folder / f"{VALIDATED}.new")
    manifest = manifest_of(folder, [f"{name}.new" for name in _names(len(members), artifact.validated is not None)])
    write_json(folder / f"{MANIFEST}.new", {name.removesuffix(".new"): digest for name, digest in manifest.items()})
    _roll_forward(folder)


def load_artifact(folder: Path) -> Artifact:
    """Reads a predictor; nothing in the folder is executed.

    Raises:
        NotAPredictor: the folder holds no predictor of ours, or one of another format version.
        CorruptFile: a file is missing or does not match its checksum.
    """
    places = _places(folder)
    description, encoders = read_json(places[PREDICTOR]), read_json(places[ENCODERS])
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise NotAPredictor(f"{folder} was not written by automm_hpo")
    version = description.get("format_version")
    if version != FORMAT_VERSION:
        made = dict(description.get("versions") or {}).get("automm_hpo")
        raise NotAPredictor(
            f"{folder} has format {version!r} (written by automm_hpo {made}), and this version reads {FORMAT_VERSION}: fit again, or load it with "
            f"automm_hpo {made}"
        )
    try:
        problem = Problem.from_json(description["problem"])
        columns = {column: (kind, reason) for column, kind, reason in description["columns"]}
        members = description["members"]
        if set(places) != set(_names(len(members), VALIDATED in places)):
            raise ValueError(f"{len(members)} members, and the files {', '.join(places)}")
        fitted = Encoders.from_json(encoders)
        artifact = Artifact(
            problem,
            ColumnTypes({column: kind for column, (kind, _) in columns.items()}, {column: reason for column, (_, reason) in columns.items()}),
            fitted,
            tuple(_load_member(member, fitted.features, problem) for member in members),
            stored_metric(description["eval_metric"]).name,
            stored_metric(description["validation_metric"]).name,
            dict(description["summary"]),
            _number(description.get("temperature", 1.0), 1.0, math.inf),
            _number(description.get("decision_threshold", HALF), 0.0, 1.0),
            digests_from_text(description["seen"]),
            ValidatedRows.load(places[VALIDATED]) if VALIDATED in places else None,
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:  # the checksums match, but the content is not what this version writes
        raise NotAPredictor(f"{folder}: its {PREDICTOR} or {ENCODERS} has unexpected content: {type(error).__name__}: {error}") from None
    for number, member in enumerate(artifact.members):
        load_weights(member.model, places[weights_name(number)])
    return artifact


def weights_file(folder: Path, number: int) -> Path:
    """The file of a member's weights; all files of the predictor are verified first.

    Raises:
        NotAPredictor, CorruptFile
    """
    return _places(folder)[weights_name(number)]


def load_summary(folder: Path) -> Mapping[str, Any]:
    """The ``fit_summary`` of the predictor in a folder; empty if there is none, or it is damaged."""
    try:
        return dict(read_json(_places(folder)[PREDICTOR])["summary"])
    except (CorruptFile, NotAPredictor, KeyError, TypeError, ValueError):
        return {}


def _load_member(stored: Mapping[str, Any], features: Features, problem: Problem) -> Member:
    """A member whose weights are still to be loaded."""
    config = Config.from_flat(stored["config"])
    if not 0 < stored["weight"] <= 1:
        raise ValueError(f"a member's weight is {stored['weight']}")
    model = build_model(config, features, problem.num_outputs, load_weights=False, sources=stored["model_source"])
    return Member(config, model, float(stored["weight"]), _number(stored.get("temperature", 1.0), 1.0, math.inf))


def _number(stored: Any, least: float, most: float) -> float:
    if not isinstance(stored, (int, float)) or not (math.isfinite(stored) and least <= stored <= most):
        raise ValueError(f"{stored!r} is not a number from {least} to {most}")
    return float(stored)


def _names(num_members: int, is_validated: bool) -> tuple[str, ...]:
    """The file names of a predictor, in the order in which they are committed."""
    return (PREDICTOR, ENCODERS, *([VALIDATED] if is_validated else []), *map(weights_name, range(num_members)))


def _places(folder: Path) -> dict[str, Path]:
    """File name -> path, for the files of the committed predictor, all verified."""
    if not folder.is_dir():
        raise NotAPredictor(f"no such folder: {folder}")
    if not is_predictor(folder):
        hint = "; its search never finished: the call that began it goes on with it" if (folder / "search").is_dir() else ""
        raise NotAPredictor(f"{folder} holds no predictor: {MANIFEST} is missing{hint}")
    sealed = (folder / f"{MANIFEST}.new").is_file()
    manifest = _manifest(folder, f"{MANIFEST}.new" if sealed else MANIFEST)
    new = {name: folder / f"{name}.new" for name in manifest}
    places = {name: new[name] if sealed and new[name].exists() else folder / name for name in manifest}
    check_files(places, manifest)
    return places


def _manifest(folder: Path, name: str) -> dict[str, str]:
    """File name -> SHA-256. A manifest must list exactly a predictor's files, so that a foreign folder cannot make us read or rename others."""
    manifest = read_json(folder / name)
    listed = set(manifest) if isinstance(manifest, dict) else set()
    names = _names(max(1, sum(WEIGHTS_NAME.fullmatch(name) is not None for name in listed)), VALIDATED in listed)
    if listed != set(names):
        raise NotAPredictor(f"{folder} was not written by automm_hpo: its {name} does not list {', '.join(names)}")
    return manifest


def _roll_forward(folder: Path) -> None:
    """Completes a sealed commit."""
    names = _manifest(folder, f"{MANIFEST}.new")
    for name in names:
        if (folder / f"{name}.new").exists():
            os.replace(folder / f"{name}.new", folder / name)
    for path in folder.iterdir():  # the previous predictor's further files, and those of commits that were never sealed
        if (WEIGHTS_NAME.fullmatch(path.name) or path.name.removesuffix(".new") == VALIDATED) and path.name not in names:
            path.unlink()
    os.replace(folder / f"{MANIFEST}.new", folder / MANIFEST)  # the seal goes last: while it is there, readers know that a commit is under way


def _flush(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def library_versions() -> dict[str, str]:
    """Versions of the libraries that results depend on."""
    names = ("automm_hpo", "torch", "timm", "ray", "optuna", "mlflow", "pandas", "scikit-learn", "numpy")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found
