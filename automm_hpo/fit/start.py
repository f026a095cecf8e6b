"""Fits that begin with another predictor: its columns, classes and model are kept, and its weights are trained further."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from ..arguments import absolute_path
from ..artifact import Artifact, load_artifact, save_artifact, weights_file
from ..config import ENCODED_ONCE, FIELDS, Config
from ..data.columns import ColumnTypes
from ..data.encoders import MOST_PICTURES
from ..data.seen import row_digests
from ..errors import CorruptFile, InvalidArgument, InvalidData, InvalidHyperparameter, NotAPredictor, Problems, listed
from ..files import is_predictor
from ..hpo.hyperparameter_space import candidate_configs
from ..hpo.identity import is_search, read_identity
from ..models import architecture, has_say, used_groups
from ..problem import Problem
from ..space import SearchSpace
from ..training.checkpoint import digest_weights

START_FOLDER = "start"  # a copy in the search folder, so that the search can go on if the original is deleted or replaced
# where a model's pretrained weights come from; here, weights always come from the predictor
ORIGIN = tuple(f"model.{model}.{name}" for model, name in (("timm_image", "pretrained"), ("timm_image", "checkpoint_path"), ("hf_text", "pretrained")))
ENCODING = (
    "data.image.max_pixels",
    MOST_PICTURES,
    "model.timm_image.val_transforms",
    *(key for key, field in FIELDS.items() if field.fixed == ENCODED_ONCE.why),
)


@dataclass(frozen=True)
class Start:
    """The predictor that a fit begins with.

    Attributes:
        folder: the predictor's original folder.
        artifact: the predictor; of several members, only the one with the largest weight.
        weights: file of that member's weights.
        num_members: number of members that the predictor had.
    """

    folder: Path
    artifact: Artifact
    weights: Path
    num_members: int = 1

    @property
    def line(self) -> str:
        which = f"the heaviest of the {self.num_members} models" if self.num_members > 1 else "the weights"
        return f"begins with {which} of {self.folder}; epoch 0 is what they score on the validation rows"

    @property
    def digest(self) -> str:
        """Digest of the weights that trials begin with, independent of their folder."""
        return digest_weights(self.artifact.members[0].model)

    @property
    def sources(self) -> Mapping[str, Mapping[str, Any]]:
        """The ``sources`` that its model is built from (see ``build_model``)."""
        return self.artifact.members[0].model.sources

    def hyperparameters(self, presets: str | None) -> dict[str, Any]:
        """The values below the user's: the predictor's, of ``env.*`` only ``env.batch_size``, and no linear probe.

        With a preset, only those that the weights and the encoding fix, and no linear probe.
        """
        own = self.artifact.config.flat() | {"optim.linear_probe": "off", "data.num_folds": 0}  # each of its networks has learned from other rows
        keys = FIELDS if presets is None else {*self._settled, "optim.linear_probe"}
        return {key: own[key] for key in keys if key == "env.batch_size" or not key.startswith("env.")}

    @property
    def origin(self) -> dict[str, Any]:
        """Overrides the user's values: the weights always come from start_from. The file they were first loaded from may no longer exist."""
        own = self.artifact.config.flat()
        began = {"model.timm_image.pretrained": self.artifact.config.model.timm_image.is_pretrained, "model.timm_image.checkpoint_path": None}
        return {key: own[key] for key in ORIGIN} | began

    @property
    def _settled(self) -> dict[str, Any]:
        """The hyperparameters that the weights and the encoding fix."""
        config = self.artifact.config
        own = architecture(config) | {key: config.flat()[key] for key in ENCODING}
        return {key: value for key, value in own.items() if key not in ORIGIN}

    def check(self, config: Config, space: SearchSpace) -> None:
        """Refuses trials that cannot begin with these weights.

        Raises:
            InvalidHyperparameter: hyperparameters that the weights or the encoding fix have other values; all problems together.
        """
        own, problems = self._settled, Problems()
        used = used_groups([self.artifact.config], self.artifact.encoders.features)
        configs = [candidate.flat() for candidate in candidate_configs(config, space, (*own, "optim.linear_probe"))]
        for key, value in own.items():
            others = [flat[key] for flat in configs if flat[key] != value]
            if others and has_say(key, used):
                problems.add(InvalidHyperparameter(f"{key}: expected {value!r}, as the predictor in start_from has it, got {others[0]!r}; leave it out"))
        if any(flat["optim.linear_probe"] == "on" for flat in configs):
            problems.add(InvalidHyperparameter("optim.linear_probe: 'on' would replace the head that start_from brings; leave it out"))
        problems.raise_any()

    def columns(self, names: Any, column_types: Mapping[str, str] | None, sample_weight: str | None) -> ColumnTypes:
        """The predictor's column types, if the table has these columns.

        Args:
            names: the table's columns.

        Raises:
            InvalidData: the table lacks some of them.
            InvalidArgument: the user gave a column another type, or named one that the predictor reads as ``sample_weight``.
        """
        own = self.artifact.columns
        if absent := [column for column in own.used if column not in names]:
            raise InvalidData(f"train_data: lacks the columns {listed(absent)}, which the predictor in start_from reads")
        for column, kind in (column_types or {}).items():
            if own.get(column, "null") != kind:
                is_to_it = own.get(column, "unknown")
                raise InvalidArgument(f"column_types: {column!r} is {is_to_it} to the predictor in start_from, got {kind}; leave it out")
        if sample_weight in own.used:
            raise InvalidArgument(f"sample_weight: the predictor in start_from learned from the column {sample_weight!r}, and nothing is learned from weights")
        return own

    def knows(self, table: pd.DataFrame, folder: Path) -> np.ndarray:
        """(N,) bool: which rows the predictor has learned from."""
        artifact = self.artifact
        return np.isin(row_digests(table, artifact.columns, artifact.problem.label, folder), artifact.seen)

    def problem_of(self, labels: pd.Series) -> Problem:
        """The predictor's problem, if these labels belong to it.

        Raises:
            InvalidData: the predictor does not know some of the classes, or all labels are equal.
        """
        problem = self.artifact.problem
        problem.encode(labels, "the rows of the predictor in start_from")
        if labels.nunique() < 2:  # it would forget all other labels
            raise InvalidData(f"label column {problem.label!r}: expected at least 2 different values, got only {labels.iloc[0]!r} in {len(labels)} rows")
        return problem

    def kept_in(self, search_folder: Path) -> Self:
        """The same, with its weights in a copy in the search folder, which is made unless an intact one exists."""
        copy = search_folder / START_FOLDER
        if not is_sound(copy):
            save_artifact(self.artifact, copy)
        return replace(self, weights=weights_file(copy, 0))


def is_sound(folder: Path) -> bool:
    """Whether the folder holds an undamaged predictor."""
    try:
        weights_file(folder, 0)
    except (CorruptFile, NotAPredictor):
        return False
    return True


def read_start(path: Any, search_folder: Path) -> Start:
    """Reads the predictor to begin with, from the search's own copy if ``path`` is that copy or the original is gone.

    Raises:
        InvalidArgument: ``path`` is the folder to save to.
        NotAPredictor, CorruptFile
    """
    folder = place = absolute_path(path, "start_from")
    copy = search_folder / START_FOLDER
    if folder == search_folder.parent:
        raise InvalidArgument(f"start_from: {folder} is save_path, too; give the new predictor a folder of its own")
    began = read_identity(search_folder).call.get("fit", {}).get("start_from") if is_search(search_folder) else None
    if is_predictor(copy) and (folder == copy or (str(folder) == began and not is_predictor(folder))):
        folder, place = Path(began or folder), copy
    try:
        artifact = load_artifact(place)
    except (NotAPredictor, CorruptFile) as problem:
        raise type(problem)(f"start_from: {problem}") from None
    heaviest = max(range(len(artifact.members)), key=lambda number: artifact.members[number].weight)
    alone = replace(artifact, members=(replace(artifact.members[heaviest], weight=1.0),), validated=None)
    return Start(folder, alone, weights_file(place, heaviest), len(artifact.members))
