"""A fit that begins with another predictor: its columns, its classes and its model stay, and its weights learn on."""

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
from ..errors import CorruptFile, InvalidArgument, InvalidData, InvalidHyperparameter, NotAPredictor, Problems
from ..files import is_predictor
from ..hpo.hyperparameter_space import candidate_configs
from ..hpo.identity import is_search, read_identity
from ..models import architecture, has_say, used_groups
from ..problem import Problem
from ..space import SearchSpace
from ..training.checkpoint import digest_weights

START_FOLDER = "start"  # in the search's own: the search goes on after the other predictor is gone, or another one
# where weights come from, which is settled by where they are
ORIGIN = tuple(f"model.{model}.{name}" for model, name in (("timm_image", "pretrained"), ("timm_image", "checkpoint_path"), ("hf_text", "pretrained")))
ENCODING = (
    "data.image.max_pixels",
    MOST_PICTURES,
    "model.timm_image.val_transforms",
    *(key for key, field in FIELDS.items() if field.fixed == ENCODED_ONCE.why),
)


@dataclass(frozen=True)
class Start:
    """What a fit begins with.

    Attributes:
        folder: the predictor's, where it was.
        artifact: the predictor; of several members only the heaviest.
        weights: the file of that member's.
        num_members: how many there were.
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
        """Tells what trials begin with apart, wherever it lies."""
        return digest_weights(self.artifact.members[0].model)

    @property
    def sources(self) -> Mapping[str, Mapping[str, Any]]:
        """What its model is built from, wherever that came from then."""
        return self.artifact.members[0].model.sources

    def hyperparameters(self, presets: str | None) -> dict[str, Any]:
        """What stands beneath the user's: all of the predictor's but for those of the machine, or only what is settled where a preset is named."""
        own = self.artifact.config.flat() | {"optim.linear_probe": "off"}
        keys = FIELDS if presets is None else {*self._settled, "optim.linear_probe"}
        return {key: own[key] for key in keys if key == "env.batch_size" or not key.startswith("env.")}

    @property
    def origin(self) -> dict[str, Any]:
        """What stands above the user's: as where the weights come from nothing else can be meant. A file that they once began with may be gone."""
        own = self.artifact.config.flat()
        began = {"model.timm_image.pretrained": self.artifact.config.model.timm_image.is_pretrained, "model.timm_image.checkpoint_path": None}
        return {key: own[key] for key in ORIGIN} | began

    @property
    def _settled(self) -> dict[str, Any]:
        """The hyperparameters that the weights and the encoding were made with."""
        config = self.artifact.config
        own = architecture(config) | {key: config.flat()[key] for key in ENCODING}
        return {key: value for key, value in own.items() if key not in ORIGIN}

    def check(self, config: Config, space: SearchSpace) -> None:
        """Refuses trials that these weights could not begin.

        Raises:
            InvalidHyperparameter: all of what is settled and would be another.
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
        """The predictor's, if the table has them.

        Args:
            names: of the table's columns.

        Raises:
            InvalidData: it lacks some.
            InvalidArgument: the user gave one another type, or as weights what is read.
        """
        own = self.artifact.columns
        if absent := [column for column in own.used if column not in names]:
            raise InvalidData(f"train_data: lacks the columns {', '.join(map(repr, absent))}, which the predictor in start_from reads")
        for column, kind in (column_types or {}).items():
            if own.get(column, "null") != kind:
                is_to_it = own.get(column, "unknown")
                raise InvalidArgument(f"column_types: {column!r} is {is_to_it} to the predictor in start_from, got {kind}; leave it out")
        if sample_weight in own.used:
            raise InvalidArgument(f"sample_weight: the predictor in start_from learned from the column {sample_weight!r}, and nothing is learned from weights")
        return own

    def knows(self, table: pd.DataFrame, folder: Path) -> np.ndarray:
        """(N,) bool: rows that the predictor has learned from."""
        artifact = self.artifact
        return np.isin(row_digests(table, artifact.columns, artifact.problem.label, folder), artifact.seen)

    def problem_of(self, labels: pd.Series) -> Problem:
        """The predictor's, if these are labels of it.

        Raises:
            InvalidData: there are classes that it does not know, or all labels are one.
        """
        problem = self.artifact.problem
        problem.encode(labels, "the rows of the predictor in start_from")
        if labels.nunique() < 2:  # it would forget all others
            raise InvalidData(f"label column {problem.label!r}: expected at least 2 different values, got only {labels.iloc[0]!r} in {len(labels)} rows")
        return problem

    def kept_in(self, search_folder: Path) -> Self:
        """This, read from a copy in the search's own folder, which is made where there is no sound one."""
        copy = search_folder / START_FOLDER
        if not is_sound(copy):
            save_artifact(self.artifact, copy)
        return replace(self, weights=weights_file(copy, 0))


def is_sound(folder: Path) -> bool:
    """Whether an undamaged predictor lies there."""
    try:
        weights_file(folder, 0)
    except (CorruptFile, NotAPredictor):
        return False
    return True


def read_start(path: Any, search_folder: Path) -> Start:
    """The predictor to begin with; the search's own copy where that is meant, or where the predictor is gone since.

    Raises:
        InvalidArgument: it is the folder to save to.
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
    alone = replace(artifact, members=(replace(artifact.members[heaviest], weight=1.0),))
    return Start(folder, alone, weights_file(place, heaviest), len(artifact.members))
