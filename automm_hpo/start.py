"""A fit that begins with another predictor: its columns, its classes and its model stay, and its weights learn on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import pandas as pd

from .arguments import absolute_path
from .artifact import Artifact, load_artifact, save_artifact, weights_file
from .config import FIELDS, Config
from .data.columns import ColumnTypes
from .errors import InvalidArgument, InvalidData, InvalidHyperparameter, Problems
from .files import is_predictor
from .hpo.ray_space import candidate_configs
from .models import ARCHITECTURE_KEYS
from .problem import Problem
from .space import SearchSpace
from .training.checkpoint import digest_weights

START_FOLDER = "start"  # in the search's own: the search goes on after the other predictor is gone, or another one
# what the weights and the encoding were made for, and the head that a probe would replace
SETTLED = (
    *ARCHITECTURE_KEYS,
    "optim.peft",
    "optim.lora.r",
    "optim.lora.alpha",
    "optim.linear_probe",
    "data.image.max_pixels",
    *(key for key in FIELDS if key.startswith(("data.numerical.", "data.categorical.", "data.text."))),
)


@dataclass(frozen=True)
class Start:
    """What a fit begins with.

    Attributes:
        folder: the predictor's.
        artifact: the predictor; of several members only the heaviest.
        weights: the file of that member's.
    """

    folder: Path
    artifact: Artifact
    weights: Path

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
        if own["model.timm_image.checkpoint_path"] is not None:  # the file may be gone; its weights count as published ones
            own |= {"model.timm_image.checkpoint_path": None, "model.timm_image.pretrained": True}
        return {key: own[key] for key in FIELDS if key in SETTLED or (presets is None and (key == "env.batch_size" or not key.startswith("env.")))}

    def check(self, config: Config, space: SearchSpace) -> None:
        """Refuses trials that these weights could not begin.

        Raises:
            InvalidHyperparameter: all of what is settled and would be another.
        """
        own, problems = self.hyperparameters(None), Problems()
        configs = [candidate.flat() for candidate in candidate_configs(config, space, SETTLED)]
        for key in SETTLED:
            if others := [flat[key] for flat in configs if flat[key] != own[key]]:
                problems.add(InvalidHyperparameter(f"{key}: expected {own[key]!r}, as the predictor in start_from has it, got {others[0]!r}; leave it out"))
        problems.raise_any()

    def columns(self, names: Any, column_types: Mapping[str, str] | None) -> ColumnTypes:
        """The predictor's, if the table has them.

        Args:
            names: of the table's columns.

        Raises:
            InvalidData: it lacks some.
            InvalidArgument: the user gave one another type.
        """
        own = self.artifact.columns
        if absent := [column for column in own.used if column not in names]:
            raise InvalidData(f"train_data: lacks the columns {', '.join(map(repr, absent))}, which the predictor in start_from reads")
        for column, kind in (column_types or {}).items():
            if own.get(column, kind) != kind:
                raise InvalidArgument(f"column_types: {column!r} is {own[column]} to the predictor in start_from, got {kind}; leave it out")
        return own

    def problem_of(self, labels: pd.Series) -> Problem:
        """The predictor's, if these are labels of it.

        Raises:
            InvalidData: there are classes that it does not know, for one.
        """
        try:
            self.artifact.problem.encode(labels)
        except InvalidData as error:
            raise InvalidData(f"train_data: the predictor in start_from cannot learn from it. {error}") from None
        return self.artifact.problem

    def kept_in(self, search_folder: Path) -> Self:
        """This, read from a copy in the search's own folder, which is made where there is none."""
        if not is_predictor(search_folder / START_FOLDER):
            save_artifact(self.artifact, search_folder / START_FOLDER)
        return replace(self, weights=weights_file(search_folder / START_FOLDER, 0))


def read_start(path: Any, search_folder: Path) -> Start:
    """The predictor to begin with; the search's own copy where it is gone.

    Raises:
        InvalidArgument, NotAPredictor, CorruptFile
    """
    folder = absolute_path(path, "start_from")
    if not is_predictor(folder) and is_predictor(search_folder / START_FOLDER):
        folder = search_folder / START_FOLDER
    artifact = load_artifact(folder)
    heaviest = max(range(len(artifact.members)), key=lambda number: artifact.members[number].weight)
    return Start(folder, replace(artifact, members=(replace(artifact.members[heaviest], weight=1.0),)), weights_file(folder, heaviest))
