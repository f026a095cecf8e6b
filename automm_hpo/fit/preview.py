"""What a call of ``fit`` would do: its trials as far as they are known, and from two timed steps of each model its time and disk."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from html import escape
from pathlib import Path

import pandas as pd

from ..config import Config
from ..hpo.searcher_args import BLIND
from ..models import MODEL_KEYS, SIZE_KEYS
from ..process import process_unchanged
from ..results import SHOWN_ROWS
from ..space import finish_proposal
from ..training.evaluate import predict_logits
from ..training.gradients import epoch_size
from ..training.loop import num_validations, train_epochs
from .capacity import is_averaged, num_parallel, peak_bytes
from .plan import FitPlan
from .timing import miniature

TIMED_STEPS = 3  # the first of them warms up


@dataclass(frozen=True)
class Preview:
    """What would run, and about what it would take if no scheduler stopped anything and no trial lost patience.

    Attributes:
        trials: a row for each trial that is known beforehand, with its tuned values, ``epochs`` and estimated ``seconds``.
        num_trials: all of them.
        num_parallel: trials at a time.
        seconds: of the whole search, start-up not counted.
        disk_bytes: of checkpoints, at their peak.
        path: where the predictor would lie.
    """

    trials: pd.DataFrame
    num_trials: int
    num_parallel: int
    seconds: float
    disk_bytes: int
    path: Path

    @property
    def summary(self) -> str:
        known = f"{len(self.trials)} of them known beforehand" if len(self.trials) < self.num_trials else "all known beforehand"
        return (
            f"{self.num_trials} trials ({known}), {self.num_parallel} at a time: about {_duration(self.seconds)} of training if none is stopped, "
            f"starting up not counted, checkpoints of at most {self.disk_bytes / 1e6:,.0f} MB in {self.path}"
        )

    def __repr__(self) -> str:
        more = f"\n... and {len(self.trials) - SHOWN_ROWS} more, in .trials" if len(self.trials) > SHOWN_ROWS else ""
        return f"{self.summary}\n{self.trials.head(SHOWN_ROWS).to_string(index=False, float_format=lambda number: f'{number:.4g}')}{more}"

    def _repr_html_(self) -> str:
        return f"<p>{escape(self.summary)}</p>{self.trials.head(SHOWN_ROWS).to_html(index=False, escape=True, float_format=lambda number: f'{number:.4g}')}"


def preview(plan: FitPlan) -> Preview:
    """Times a few steps on a few rows; nothing is written."""
    with process_unchanged():
        return _preview(plan)


def _preview(plan: FitPlan) -> Preview:
    search = plan.search
    slots, configs = num_parallel(search), _known_configs(plan)
    costs: dict[str, tuple[float, int]] = {}
    rows = []
    for number, (tuned, config) in enumerate(configs):
        key = repr([config.flat()[name] for name in (*MODEL_KEYS, *SIZE_KEYS, "env.batch_size")])  # what a step's time depends on
        if key not in costs:
            costs[key] = _measure(plan, config)
        seconds_per_epoch, _ = costs[key]
        epochs = _num_epochs(config, len(plan.data.train.table))
        rows.append({"trial": number, **tuned, "epochs": epochs, "seconds": seconds_per_epoch * epochs})
    trials = pd.DataFrame(rows)
    mean_seconds = float(trials["seconds"].mean())
    rounds = math.ceil(search.num_trials / slots)
    weights = max(size for _, size in costs.values())
    peak = peak_bytes(search.settings, slots, weights, is_averaged(search), plan.ensemble_size)
    return Preview(trials, search.num_trials, slots, mean_seconds * rounds, peak, plan.path)


def _known_configs(plan: FitPlan) -> list[tuple[dict, Config]]:
    """The tuned values and the config of each trial that does not depend on the results of others; the first at least."""
    search = plan.search
    if not search.space:
        return [({}, search.config)]
    from ..hpo.once import build_proposer

    searcher = build_proposer(search.settings, search.space, plan.seed, search.first_points)
    known = search.num_trials if search.settings.searcher in BLIND else max(1, len(search.first_points))
    found = []
    for number in range(known):
        raw = searcher.suggest(str(number))
        if not isinstance(raw, dict):
            break
        tuned = finish_proposal(search.space, raw, search.config.flat(), (plan.seed, number))
        found.append((tuned, search.config.with_overrides(tuned)))
    return found


def _num_epochs(config: Config, num_rows: int) -> float:
    """The most a trial can have."""
    limit, (_, steps_per_epoch) = config.optim.max_steps, epoch_size(config.env, num_rows)
    return config.optim.max_epochs if limit < 0 else min(config.optim.max_epochs, limit / steps_per_epoch)


def _measure(plan: FitPlan, config: Config) -> tuple[float, int]:
    """(seconds of an epoch, bytes of one set of weights)."""
    _, steps_per_epoch = epoch_size(config.env, len(plan.data.train.table))
    with miniature(plan, config, TIMED_STEPS) as (short, state, few):
        predict_logits(state.model, few.valid, short.env)  # warms up
        began = time.perf_counter()
        predict_logits(state.model, few.valid, short.env)
        valid_row = (time.perf_counter() - began) / len(few.valid)
        results = list(train_epochs(state, few, short, plan.seed, lambda ahead: None))
        step = max(0.0, (results[-1].seconds - results[0].seconds) / max(1, len(results) - 1) - valid_row * len(few.valid))  # one, where it diverged
    size = sum(tensor.nbytes for tensor in state.model.state_dict().values())
    return steps_per_epoch * step + num_validations(config.optim, steps_per_epoch) * valid_row * len(plan.data.valid.table), size


def _duration(seconds: float) -> str:
    if seconds < 1:
        return "a second"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
