"""``predictor.search``: what a search found, what it cost, and its pictures."""

from __future__ import annotations

import contextlib
import html
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pandas as pd

from .arguments import absolute_path
from .errors import NotAPredictor
from .hpo.identity import is_search, read_identity
from .hpo.importance import importances
from .hpo.objective_space import nest
from .hpo.records import DIVERGED, FAILED, SearchRecords, TrialRecord, best_of, leaderboard, ranked
from .hpo.table import TrialRow, count_text, notes_on, number_text, table_html, trial_columns
from .metrics import Metric

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN_ROWS = 20
ConfigOf = Callable[[TrialRecord], dict[str, Any]]


def load_search(path: str | Path) -> SearchResults:
    """The search of a ``fit`` or of a ``tune_objective``, finished or not, from its ``save_path``. Nothing else is needed, and nothing is changed.

    Raises:
        NotAPredictor: there is no search.
    """
    folder = absolute_path(path, "path") / "search"
    if not is_search(folder):
        raise NotAPredictor(f"{folder.parent} holds no search")
    return SearchResults(SearchRecords(folder), read_identity(folder).metric)


class SearchResults:
    """A search as its records told it when this was made; made again (``load_search``, ``predictor.search``) it tells what has come since.

    Attributes:
        records: the files behind it.
        metric: the validation metric; curves and pictures show it in its natural sign.
        trials: in the order of proposal.
    """

    def __init__(self, records: SearchRecords, metric: Metric, config_of: ConfigOf | None = None) -> None:
        """For ``fit`` and ``tune_objective``.

        Args:
            config_of: gives a trial's best config in the user's own objects, where this process has them.
        """
        self.records, self.metric, self._config_of = records, metric, config_of
        self.trials: list[TrialRecord] = records.trials()

    def __len__(self) -> int:
        return len(self.trials)

    @property
    def path(self) -> str:
        """The ``save_path`` of the search."""
        return str(self.records.folder.parent)

    @property
    def best(self) -> TrialRecord | None:
        """The trial with the best best epoch; None where none has a score."""
        return best_of(self.trials)

    @property
    def best_config(self) -> dict[str, Any] | None:
        """All values of the best trial at its best epoch; None where none has a score.

        Of a fit by dotted key, as ``hyperparameters`` takes them; of an objective nested, as it is called with them. What ``load_search`` gives has
        of an objective's values that JSON cannot hold, such as classes, the texts.
        """
        if self.best is None:
            return None
        return self._config_of(self.best) if self._config_of else nest(self.best.best_config)

    def checkpoint(self, trial: int | None = None) -> str | None:
        """The folder of a trial's best epoch: its weights, or what a Trainable or a function of the user's saved there.

        Of a function that saves now and then, the best of the epochs in which it did.

        Args:
            trial: its number; None: the best.

        Returns:
            The folder's path; None where it is not kept (``num_to_keep``, ``keep_trials``), or nothing was saved.
        """
        record = self.best if trial is None else next((record for record in self.trials if record.number == trial), None)
        if record is None or record.best is None:
            return None
        folder = self.records.folder_of(record.number)
        kept = [result for result in record.results if folder.checkpoint(result).is_dir()]
        return str(folder.checkpoint(max(kept, key=lambda result: result.rank))) if kept else None

    # ------------------------------------------------------------------------------------------------------------- tables

    def leaderboard(self) -> pd.DataFrame:
        """One row a trial, best first; columns as ``hpo.records.leaderboard`` lists them."""
        return leaderboard(self.trials, self.metric)

    def curves(self) -> pd.DataFrame:
        """One row a validation of each trial, in the order they were made.

        Returns:
            Columns: trial, segment (counted from 0; population-based training begins another where a trial takes over a better one's
            weights), epoch, score (higher is better), metric (in its natural sign), train_loss, valid_loss, lr, seconds, and what else
            was reported; where that has the name of one of these, as ``reported/<name>``.
        """
        columns = ["trial", "segment", "epoch", "score", "metric", "train_loss", "valid_loss", "lr", "seconds"]
        rows, reported = [], dict[str, None]()
        for record in self.trials:
            for result in record.results:
                row = result.named(columns[1:], taken=columns[:1])
                rows.append({**row, "trial": record.number})
                reported |= dict.fromkeys(key for key in row if key not in columns)
        return pd.DataFrame(rows, columns=[*columns, *reported])

    def failures(self) -> pd.DataFrame:
        """The trials that failed or diverged: trial, status, reason, and traceback where one was written."""
        rows = [
            {"trial": record.number, "status": record.status, "reason": record.reason, "traceback": self.records.folder_of(record.number).error}
            for record in self.trials
            if record.status in (FAILED, DIVERGED)
        ]
        return pd.DataFrame(rows, columns=["trial", "status", "reason", "traceback"])

    def costs(self) -> pd.DataFrame:
        """What each trial took.

        Returns:
            One row a trial in the order of proposal: trial, status, epochs, seconds (training and validating), share of all seconds,
            and disk_mb, the size of its folder now.
        """
        rows: list[dict[str, Any]] = [
            {"trial": record.number, "status": record.status, "epochs": record.epochs, "seconds": record.seconds, "disk_mb": self._disk_mb(record)}
            for record in self.trials
        ]
        table = pd.DataFrame(rows, columns=["trial", "status", "epochs", "seconds", "disk_mb"])
        table.insert(4, "share", table["seconds"] / (table["seconds"].sum() or 1.0))
        return table

    def costs_by_status(self) -> pd.DataFrame:
        """What the trials of each status took together; the row STOPPED is what went into trials that were given up.

        Returns:
            Index: the statuses that occur, then ``total``. Columns: trials, epochs, seconds, share, disk_mb.
        """
        costs = self.costs()
        numbers = ["epochs", "seconds", "share", "disk_mb"]
        table = costs.groupby("status")[numbers].sum()
        table.insert(0, "trials", costs.groupby("status").size())
        return pd.concat([table, table.sum().rename("total").to_frame().T]).astype({"trials": int})

    def importance(self, evaluator: str = "fanova") -> pd.Series:
        """The share of each hyperparameter in the differences between the trials' scores.

        Args:
            evaluator: ``fanova``, ``mdi`` or ``ped_anova``, see ``hpo/importance.py``.

        Returns:
            float64 by dotted key, the largest first; they sum to 1. Of few trials it is a hint, not a measurement.

        Raises:
            InvalidArgument: the evaluator is unknown, nothing was tuned, or fewer than two trials have different scores.
        """
        return importances(self.trials, self.metric, evaluator)

    def _disk_mb(self, record: TrialRecord) -> float:
        size = 0
        for folder, _, files in os.walk(self.records.folder_of(record.number).path):
            for name in files:
                with contextlib.suppress(FileNotFoundError):  # of a search that runs, checkpoints come and go
                    size += os.path.getsize(os.path.join(folder, name))
        return size / 1e6

    # ----------------------------------------------------------------------------------------------------------- pictures

    def plot_curves(self) -> Figure:
        """The metric of every trial over its epochs."""
        return _plots().plot_curves(self.trials, self.metric)

    def plot_parallel_coordinates(self) -> Figure:
        """A line a trial through the values it was given, to its best score."""
        return _plots().plot_parallel_coordinates(self.trials, self.metric)

    def plot_importance(self, evaluator: str = "fanova") -> Figure:
        """``importance`` as bars."""
        return _plots().plot_importance(self.trials, self.metric, evaluator=evaluator)

    def plot_slice(self) -> Figure:
        """The best score of each trial against each of its hyperparameters."""
        return _plots().plot_slice(self.trials, self.metric)

    def plot_timeline(self) -> Figure:
        """When each trial ran, and how it ended."""
        return _plots().plot_timeline(self.trials, self.metric)

    def figures(self) -> dict[str, Figure]:
        """Every picture that can be drawn, by file name; never raises."""
        return dict(self.each_figure())

    def each_figure(self) -> Iterator[tuple[str, Figure]]:
        """The same one after another, with their names, each when it is drawn; the last takes longest."""
        return _plots().figures(self.trials, self.metric)

    # --------------------------------------------------------------------------------------------------------------- text

    def __repr__(self) -> str:
        return f"SearchResults({self._headline()})"

    def _headline(self) -> str:
        record, counts = self.best, count_text(record.status for record in self.trials)
        best = record.best if record else None
        found = f"best: trial {record.number}, {self.metric.name} {number_text(best.metric)} at epoch {best.epoch:g}" if record and best else "no score"
        return f"{len(self)} trials{': ' if counts else ''}{counts}; {found}"

    def _repr_html_(self) -> str:
        ordered = ranked(self.trials)
        shown = ordered[:SHOWN_ROWS]
        notes = "".join(f"<div>{html.escape(note)}</div>" for note in notes_on(ordered, len(shown)))
        table = table_html(trial_columns([TrialRow.of(record) for record in shown], self.metric), bold=0 if self.best else None)
        return f"<div><div>{html.escape(self._headline())}</div>{table}{notes}</div>"


def _plots() -> ModuleType:
    from . import plots  # matplotlib takes half a second to import

    return plots
