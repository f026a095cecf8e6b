"""How much of the differences between trials each hyperparameter explains, by Optuna's evaluators.

To add one: an entry in ``EVALUATORS``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..errors import InvalidArgument, did_you_mean
from ..metrics import Metric
from .axes import Axis, metric_axis, tuned_axes
from .records import TrialRecord

MOST_OPTIONS = 6  # a choice with more counts as a number: fANOVA's time doubles with each option, 18 take 90 s
MOST_TRIALS = 300  # fANOVA takes 3 s for 300 trials and 18 s for 1,000, with the same result


EVALUATORS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "fanova": ("fANOVA", lambda optuna: optuna.FanovaImportanceEvaluator(seed=0)),
    "mdi": ("mean decrease in impurity", lambda optuna: optuna.MeanDecreaseImpurityImportanceEvaluator(seed=0)),
    # the default of 0.1 would be one or two trials of a usual search
    "ped_anova": ("PED-ANOVA", lambda optuna: optuna.PedAnovaImportanceEvaluator(target_quantile=0.25)),
}
"""Name -> (title in plots, factory)."""


def importances(trials: Sequence[TrialRecord], metric: Metric, evaluator: str = "fanova") -> pd.Series:
    """The share of each tuned hyperparameter in the differences between the trials' best scores.

    Trials without a score do not count, and of very many trials only a sample of ``MOST_TRIALS`` does. Numbers drawn log-uniformly, and losses
    over orders of magnitude, count by their logarithm. If a trial does not have a hyperparameter, the middle of its range stands in, or an
    additional option. Choices with more than ``MOST_OPTIONS`` options count as numbers, by the order of the options; trees can split those as well.

    Args:
        evaluator: ``fanova`` (Hutter et al. 2014), ``mdi`` (mean decrease in impurity) or ``ped_anova`` (Watanabe et al. 2023; it asks what
            sets the best quarter apart).

    Returns:
        float64 in [0, 1] by dotted key, largest first, with a sum of 1.

    Raises:
        InvalidArgument: an unknown evaluator, nothing was tuned, or fewer than two trials have different scores.
    """
    if evaluator not in EVALUATORS:
        raise InvalidArgument(f"evaluator: expected one of {', '.join(EVALUATORS)}, got {evaluator!r}.{did_you_mean(str(evaluator), EVALUATORS)}")
    scored = [record for record in trials if record.best]
    if len(scored) > MOST_TRIALS:  # evenly spaced over the search
        scored = [scored[place] for place in np.linspace(0, len(scored) - 1, MOST_TRIALS).astype(int)]
    axes = [axis for axis in tuned_axes(scored) if len(np.unique(axis.positions)) > 1]  # a value that all trials share explains nothing
    if len({record.best.score for record in scored if record.best}) < 2:
        raise InvalidArgument(f"importance: expected at least 2 trials with different scores; {len(scored)} of {len(trials)} have a score")
    if not axes:
        raise InvalidArgument("importance: no hyperparameter was tuned, or all trials have the same values")
    import optuna
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

    values = np.array([record.best.metric for record in scored if record.best])
    targets = metric_axis(values.tolist(), metric).unit_positions(values)  # scaled to [0, 1]: trees see no variance of 1e-9, and cannot square 1e200
    columns = {axis.key: _column(axis) for axis in axes}
    distributions: dict[str, BaseDistribution] = {
        key: CategoricalDistribution(range(num_options)) if num_options else FloatDistribution(0.0, 1.0) for key, (_, num_options) in columns.items()
    }
    frozen = [
        optuna.trial.create_trial(params={key: column[row] for key, (column, _) in columns.items()}, distributions=distributions, value=float(target))
        for row, target in enumerate(targets)
    ]
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(direction="maximize" if metric.higher_is_better else "minimize")
        study.add_trials(frozen)
        # sorted: Optuna 5.0's mean decrease in impurity assigns its values to the names in sorted order, whatever order they are given in
        found = optuna.importance.get_param_importances(study, evaluator=EVALUATORS[evaluator][1](optuna.importance), params=sorted(columns))
    finally:
        optuna.logging.set_verbosity(level)
    return pd.Series(found, name="importance", dtype=np.float64).sort_values(ascending=False, kind="stable")


def _column(axis: Axis) -> tuple[list[Any], int]:
    """The values for Optuna and the number of options, 0 for a number. Absent values become one more option, or 0.5."""
    if axis.kind == "options":
        column = [int(position) if np.isfinite(position) else len(axis.options) for position in axis.positions]
        num_options = max(column) + 1
        return (column, num_options) if num_options <= MOST_OPTIONS else ([place / num_options for place in column], 0)
    return [float(position) for position in np.nan_to_num(axis.unit_positions, nan=0.5)], 0
