"""Previews a call of ``fit``: its trials as far as they are known, and its time and disk space, estimated from a few timed steps of each model."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from ..config import Config
from ..hpo.job import ray_pays
from ..hpo.searcher_args import BLIND
from ..process import process_unchanged
from ..results import SHOWN_ROWS
from ..space import finish_proposal
from ..training.evaluate import predict_logits
from ..training.gradients import epoch_size
from ..training.loop import num_validations, train_epochs
from .capacity import num_epochs, num_parallel, peak_bytes
from .plan import FitPlan
from .timing import miniature
from .venue import venue_of

TIMED_STEPS = 3  # the first one is a warm-up
LENGTHS = ("optim.max_epochs", "optim.max_steps", "optim.patience")  # they set how long a trial is, not how long a step takes


@dataclass(frozen=True)
class Preview:
    """What a ``fit`` would run, and its approximate cost if no scheduler stopped a trial and no trial ran out of patience.

    Attributes:
        trials: a row for each trial that is known beforehand, with its tuned values, ``epochs`` and estimated ``seconds``.
        num_trials: trials of the whole search.
        num_ended: trials that have already ended in an earlier session.
        num_parallel: trials at a time.
        seconds: estimated time of the remaining trials, without start-up.
        disk_bytes: peak size of the checkpoints.
        path: folder where the predictor would be saved.
        time_limit: seconds left of ``fit``'s ``time_limit``; None: no limit.
    """

    trials: pd.DataFrame
    num_trials: int
    num_ended: int
    num_parallel: int
    seconds: float
    disk_bytes: int
    path: Path
    time_limit: float | None = None

    @property
    def summary(self) -> str:
        known = f"{len(self.trials)} of them known beforehand" if len(self.trials) < self.num_trials else "all known beforehand"
        known += f", {self.num_ended} of them done" if self.num_ended else ""
        trials = "1 trial" if self.num_trials == 1 else f"{self.num_trials} trials"
        return (
            f"{trials} ({known}), {self.num_parallel} at a time: about {_duration(self.seconds)} of training if none is stopped, "
            f"starting up not counted{self._in_time}, checkpoints of at most {self.disk_bytes / 1e6:,.0f} MB in {self.path}"
        )

    @property
    def _in_time(self) -> str:
        if self.time_limit is None or self.seconds <= self.time_limit:
            return ""
        left = self.num_trials - self.num_ended
        enough = f"enough for about {int(left * self.time_limit / self.seconds)} of {left}" if left > 1 else "its schedule would end sooner"
        return f" (time_limit leaves {_duration(self.time_limit)}, start included: {enough})"

    def __repr__(self) -> str:
        more = f"\n... and {len(self.trials) - SHOWN_ROWS} more, in .trials" if len(self.trials) > SHOWN_ROWS else ""
        return f"{self.summary}\n{self.trials.head(SHOWN_ROWS).to_string(index=False, float_format=lambda number: f'{number:.4g}')}{more}"

    def _repr_html_(self) -> str:
        return f"<p>{escape(self.summary)}</p>{self.trials.head(SHOWN_ROWS).to_html(index=False, escape=True, float_format=lambda number: f'{number:.4g}')}"


@process_unchanged()
def preview(plan: FitPlan) -> Preview:
    """Times a few steps on a few rows. Writes nothing."""
    search, time_limit = plan.search, None if plan.deadline is None else max(0.0, plan.deadline - time.time())
    slots, configs = num_parallel(search), _known_configs(plan)
    seconds_per_epoch: dict[str, float] = {}
    rows = []
    for number, (tuned, config) in enumerate(configs):
        key = repr([(name, value) for name, value in config.flat().items() if name in tuned and _takes_time(name, value)])
        if key not in seconds_per_epoch:
            seconds_per_epoch[key] = _measure(plan, config)
        epochs = num_epochs(config, len(plan.data.train.table))
        rows.append({"trial": number, **tuned, "epochs": epochs, "seconds": seconds_per_epoch[key] * epochs})
    trials = pd.DataFrame(rows)
    num_ended = sum(record.has_ended for record in plan.earlier)
    left = search.num_trials - num_ended
    each = float(trials["seconds"].mean())
    if venue_of(plan).in_process and not ray_pays(each * left, slots):
        slots = 1
    seconds = each * math.ceil(left / slots)
    peak, _ = peak_bytes(plan)
    return Preview(trials, search.num_trials, num_ended, slots, seconds, peak, plan.path, time_limit)


def _takes_time(key: str, value: Any) -> bool:
    """Whether a value may change how long an epoch takes. ``LENGTHS`` and floats (rates, shares) do not, except the validation interval."""
    return key == "optim.val_check_interval" or not (isinstance(value, float) or key in LENGTHS)


def _known_configs(plan: FitPlan) -> list[tuple[dict, Config]]:
    """(tuned values, config) of each trial that does not depend on the results of others; at least of the first."""
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


def _measure(plan: FitPlan, config: Config) -> float:
    """Estimated seconds of an epoch, validations included."""
    _, steps_per_epoch = epoch_size(config.env, len(plan.data.train.table))
    with miniature(plan, config, TIMED_STEPS) as (short, state, few):
        predict_logits(state.model, few.valid, short.env)  # warms up
        began = time.perf_counter()
        predict_logits(state.model, few.valid, short.env)
        valid_row = (time.perf_counter() - began) / len(few.valid)
        results = list(train_epochs(state, few, short, plan.seed, lambda epoch, ahead: None))
        # max(1, ...): if training diverged, there may be one result only
        step = max(0.0, (results[-1].seconds - results[0].seconds) / max(1, len(results) - 1) - valid_row * len(few.valid))
    return steps_per_epoch * step + num_validations(config.optim, steps_per_epoch) * valid_row * len(plan.data.valid.table)


def _duration(seconds: float) -> str:
    if seconds < 1:
        return "a second"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
