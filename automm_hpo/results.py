"""``predictor.search``: what a search found, what it cost, and its plots."""

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
from .hpo.tune_report import FILES
from .metrics import Metric
from .training.checkpoint_folder import SAVED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN_ROWS = 20
ConfigOf = Callable[[TrialRecord], dict[str, Any]]


def load_search(path: str | Path) -> SearchResults:
    """Loads the search of a ``fit`` or ``tune_objective`` call, finished or not, possibly still running. The folder is only read.

    Args:
        path: the ``save_path`` of the call.

    Raises:
        NotAPredictor: the folder holds no search.
        InvalidArgument: ``path`` is not a path.
    """
    folder = absolute_path(path, "path") / "search"
    if not is_search(folder):
        raise NotAPredictor(f"{folder.parent} holds no search")
    return SearchResults(SearchRecords(folder), read_identity(folder).metric)


class SearchResults:
    """A search as it was on disk when this object was made. ``load_search`` or ``predictor.search`` make a new one with what has been added since.

    Attributes:
        records: access to the files of the search.
        metric: the metric of the search; curves and plots show it in its natural sign.
        trials: one ``TrialRecord`` per trial, in the order of proposal.
    """

    def __init__(self, records: SearchRecords, metric: Metric, config_of: ConfigOf | None = None) -> None:
        """Made by ``predictor.search``, ``tune_objective`` and ``load_search``.

        Args:
            config_of: returns a trial's best config with the user's own objects; None: this process does not have them.
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
        """The trial with the best epoch of all trials; None if no trial has a score."""
        return best_of(self.trials)

    @property
    def best_config(self) -> dict[str, Any] | None:
        """All values of the best trial at its best epoch; None if no trial has a score.

        For ``fit`` by dotted key, as ``hyperparameters`` takes them. For ``tune_objective`` nested, as the objective is called with them; after
        ``load_search``, values that JSON cannot hold, such as classes, are given as text.
        """
        if self.best is None:
            return None
        return self._config_of(self.best) if self._config_of else nest(self.best.best_config)

    @property
    def best_tuned(self) -> dict[str, Any] | None:
        """The values that the search chose for the best trial, by dotted key, at its best epoch; None if no trial has a score."""
        return None if self.best is None else dict(self.best.best_tuned)

    def checkpoint(self, trial: int | None = None) -> str | None:
        """The checkpoint folder of a trial's best epoch, with the model's weights (``load_trial`` reads them) or what a user's Trainable or function saved.

        If the best epoch has no checkpoint, it is that of the best epoch that has one.

        Args:
            trial: the trial's number; None: the best trial.

        Returns:
            The folder's path; None if no checkpoint was saved or kept (``num_to_keep``, ``keep_trials``), or there is no such trial.
        """
        record = self.best if trial is None else next((record for record in self.trials if record.number == trial), None)
        if record is None or record.best is None:
            return None
        folder = self.records.folder_of(record.number)
        kept = [result for result in record.results if folder.checkpoint(result).is_dir()]
        if not kept:
            return None
        place = folder.checkpoint(max(kept, key=lambda result: result.rank))
        return str(place / SAVED if (place / SAVED).is_dir() else place)

    def trial_dir(self, trial: int | None = None) -> str | None:
        """The folder that a trial's objective had for files of its own (``ray.tune.get_context().get_trial_dir()``).

        Args:
            trial: the trial's number; None: the best trial.

        Returns:
            The folder's path; None if the trial wrote nothing there, or there is no such trial.
        """
        number = trial if trial is not None else self.best.number if self.best else None
        folder = None if number is None else self.records.folder_of(number).path / FILES
        return str(folder) if folder and folder.is_dir() else None

    # ------------------------------------------------------------------------------------------------------------- tables

    def leaderboard(self) -> pd.DataFrame:
        """One row per trial, best first, trials without a score last.

        Returns:
            Columns: trial (number), status, score (higher is better), the metric under its own name in its natural sign (only if lower is better),
            best_epoch, epochs, seconds, size_mb (of one set of weights), reason (for the status), one column for each tuned hyperparameter (at the best
            epoch, nan if the trial does not have it), and one for every other value that an objective reported at its best epoch.

            If an objective's name is taken by one of these: its metric's column is ``metric``, its hyperparameter's ``config/<name>``, that of another
            value ``reported/<name>``.
        """
        return leaderboard(self.trials, self.metric)

    def curves(self) -> pd.DataFrame:
        """One row per validation or report, trial by trial, in the order in which they were made.

        Returns:
            Columns: trial, segment (counted from 0; population-based training begins another one when a trial takes over a better one's
            weights), epoch, score (higher is better), metric (in its natural sign), train_loss, valid_loss, lr, seconds (of the trial so far), and every
            other value that an objective reported, as ``reported/<name>`` if its name is taken. An objective's own train_loss, valid_loss and lr are in
            the columns of these names.
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
        """One row per trial that failed or diverged.

        Returns:
            Columns: trial, status, reason, traceback (empty if there is none).
        """
        rows = [
            {"trial": record.number, "status": record.status, "reason": record.reason, "traceback": self.records.folder_of(record.number).error}
            for record in self.trials
            if record.status in (FAILED, DIVERGED)
        ]
        return pd.DataFrame(rows, columns=["trial", "status", "reason", "traceback"])

    def costs(self) -> pd.DataFrame:
        """What each trial cost.

        Returns:
            One row per trial, in the order of proposal. Columns: trial, status, epochs, seconds (of training and validation), share (of all
            seconds), disk_mb (present size of the trial's folder).
        """
        rows: list[dict[str, Any]] = [
            {"trial": record.number, "status": record.status, "epochs": record.epochs, "seconds": record.seconds, "disk_mb": self._disk_mb(record)}
            for record in self.trials
        ]
        table = pd.DataFrame(rows, columns=["trial", "status", "epochs", "seconds", "disk_mb"])
        table.insert(4, "share", table["seconds"] / (table["seconds"].sum() or 1.0))
        return table

    def costs_by_status(self) -> pd.DataFrame:
        """What the trials of each status cost together; the row STOPPED is what was spent on trials that were ended early.

        Returns:
            Index: the statuses that occur, then ``total``. Columns: trials, epochs, seconds, share, disk_mb.
        """
        costs = self.costs()
        numbers = ["epochs", "seconds", "share", "disk_mb"]
        table = costs.groupby("status")[numbers].sum()
        table.insert(0, "trials", costs.groupby("status").size())
        return pd.concat([table, table.sum().rename("total").to_frame().T]).astype({"trials": int})

    def importance(self, evaluator: str = "fanova") -> pd.Series:
        """The share of the differences between the trials' scores that each tuned hyperparameter explains.

        Args:
            evaluator: ``fanova``, ``mdi`` or ``ped_anova``, see ``hpo/importance.py``.

        Returns:
            float64 by dotted key, the largest first; they sum to 1. With few trials it is a hint, not a measurement.

        Raises:
            InvalidArgument: the evaluator is unknown, nothing was tuned, or fewer than two trials have different scores.
        """
        return importances(self.trials, self.metric, evaluator)

    def _disk_mb(self, record: TrialRecord) -> float:
        size = 0.0
        for folder, _, files in os.walk(self.records.folder_of(record.number).path):
            for name in files:
                with contextlib.suppress(FileNotFoundError):  # while the search runs, checkpoints come and go
                    status = os.stat(os.path.join(folder, name))
                    size += status.st_size / max(1, status.st_nlink)  # checkpoints share files
        return size / 1e6

    # -------------------------------------------------------------------------------------------------------------- plots

    def plot_curves(self) -> Figure:
        """The metric of every trial over its epochs, or over the trials if each has a single result."""
        return _plots().plot_curves(self.trials, self.metric)

    def plot_parallel_coordinates(self) -> Figure:
        """One line per trial, through its tuned values to its best score."""
        return _plots().plot_parallel_coordinates(self.trials, self.metric)

    def plot_importance(self, evaluator: str = "fanova") -> Figure:
        """``importance`` as a bar chart.

        Args:
            evaluator: as for ``importance``.

        Raises:
            InvalidArgument: the evaluator is unknown.
        """
        return _plots().plot_importance(self.trials, self.metric, evaluator=evaluator)

    def plot_slice(self) -> Figure:
        """The best score of each trial against each of its hyperparameters."""
        return _plots().plot_slice(self.trials, self.metric)

    def plot_timeline(self) -> Figure:
        """When each trial ran, and how it ended."""
        return _plots().plot_timeline(self.trials, self.metric)

    def figures(self) -> dict[str, Figure]:
        """Every plot that can be drawn, by file name. Never raises."""
        return dict(self.each_figure())

    def each_figure(self) -> Iterator[tuple[str, Figure]]:
        """(file name, figure) of the same plots one after another, each as soon as it is drawn, the slowest last."""
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
