"""Plots of a search. Each takes the trials and their metric and returns a figure, which a notebook shows if it is the last value of a cell.

pyplot is not used: it keeps every figure alive, and its state belongs to the user. To add a plot, write a function marked ``@_picture(name)``.
"""

from __future__ import annotations

import contextlib
import functools
import io
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby, pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from .errors import InvalidArgument
from .hpo.axes import Axis, MetricAxis, metric_axis, tuned_axes
from .hpo.importance import EVALUATORS, MOST_TRIALS, importances
from .hpo.records import COMPLETED, DIVERGED, FAILED, RUNNING, STOPPED, TrialRecord
from .hpo.table import STATUS_COLORS, cut, number_text, printable, short_name, value_text, value_texts
from .metrics import Metric
from .training.result import EpochResult

BEST_COLOR, TEXT_COLOR, FAINT_COLOR = "#0B3C6F", "#333333", "#BBBBBB"
SHADES = LinearSegmentedColormap.from_list("scores", ["#F1CF9B", "#E08F5A", "#B14A6B", "#3B1D6E"])  # darker is better, even printed in grey
LINES = {RUNNING: "-", COMPLETED: "-", STOPPED: (0, (4, 2)), DIVERGED: (0, (1, 1.5)), FAILED: (0, (1, 1.5))}
ENDS = {RUNNING: "", COMPLETED: "", STOPPED: "s", DIVERGED: "X", FAILED: "X"}  # the mark at the end of a curve that broke off
POINTS = {RUNNING: ">", COMPLETED: "o", STOPPED: "s", DIVERGED: "X", FAILED: "X"}
MANY = 25  # with more trials than this, lines and points are finer and paler
MOST_OF_A_LABEL = 40  # characters, for labels that would look alike if they were shorter
LABEL_LENGTH = 22

Picture = Callable[..., Figure]
PICTURES: dict[str, Picture] = {}


class NothingToDraw(Exception):
    """Says what is missing; the figure then shows this message instead of a plot."""


class SearchFigure(Figure):
    """A figure that notebooks show without pyplot."""

    def __init__(self, width: float, height: float) -> None:
        super().__init__(figsize=(width, height), dpi=110, layout="constrained", facecolor="white")

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()


def _picture(name: str) -> Callable[[Picture], Picture]:
    """Registers a drawing function in ``PICTURES``. If it raises NothingToDraw, the figure has no axes and says what is missing."""

    def register(draw: Picture) -> Picture:
        @functools.wraps(draw)
        def picture(trials: Sequence[TrialRecord], metric: Metric, **options: Any) -> Figure:
            try:
                return draw(trials, metric, **options)
            except NothingToDraw as missing:
                figure = SearchFigure(7, 1.6)
                figure.text(0.5, 0.5, _label(str(missing), 200), ha="center", va="center", color=TEXT_COLOR, wrap=True)
                return figure

        PICTURES[name] = picture
        return picture

    return register


def figures(trials: Sequence[TrialRecord], metric: Metric) -> Iterator[tuple[str, Figure]]:
    """(file name, figure) of every plot that can be drawn, one at a time, the slowest last. Never raises."""
    for name, draw in PICTURES.items():
        with contextlib.suppress(Exception):
            figure = draw(trials, metric)
            if figure.axes:
                yield f"{name}.png", figure


# ------------------------------------------------------------------------------------------------------------------- curves


@_picture("curves")
def plot_curves(trials: Sequence[TrialRecord], metric: Metric) -> Figure:
    """The metric of every trial over its epochs. Curves of stopped trials are dashed and end in a mark; the best trial is on top.

    A trial of population-based training has one curve per segment. If no trial has more than one result, the metric is drawn over the trials instead.
    """
    values = [result.metric for record in trials for result in record.results if math.isfinite(result.metric)]
    if not values:
        raise NothingToDraw("curves: no trial has a score yet")
    best, scale = _best(trials), metric_axis(values, metric)
    best_place = best[0] if best else None
    if best and all(len(record.results) <= 1 for record in trials):
        return _plot_scores(trials, metric, scale, *best)
    figure = SearchFigure(9, 5)
    axes = _frame(figure.add_subplot(), grid="both")
    many = len(trials) > MANY
    for place, record in enumerate(trials):
        style: dict[str, Any] = {"color": STATUS_COLORS[record.status], "linestyle": LINES[record.status]}
        style |= {"lw": 1.0, "alpha": _paleness(0.45, trials)} if many else {"lw": 1.4, "alpha": 0.8}
        if place == best_place:
            style = {"color": BEST_COLOR, "lw": 2.6, "zorder": 4}
        end = None
        for _, results in groupby(record.results, key=lambda result: result.segment):
            curve = [(result.epoch, result.metric) for result in results if math.isfinite(result.metric)]
            axes.plot(*_xy(curve), marker="o" if len(curve) == 1 and not ENDS[record.status] else "", markersize=4, **style)
            end = curve[-1] if curve else end
        if end and ENDS[record.status] and place != best_place:
            axes.plot(*end, marker=ENDS[record.status], markersize=4 if many else 5.5, color=style["color"], alpha=style["alpha"], zorder=3)
    if best:
        axes.plot(best[1].epoch, best[1].metric, marker="*", markersize=14, color=BEST_COLOR, markeredgecolor="white", zorder=5)
    _metric_scale(axes, scale)
    axes.set(xlabel="epoch", ylabel=_metric_label(metric))
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    _say_beyond(axes, scale)
    drawn = [record for record in trials if any(math.isfinite(result.metric) for result in record.results)]
    handles = _status_handles(drawn, lambda status: {"linestyle": LINES[status], "marker": ENDS[status]})
    if len(drawn) < len(trials):
        handles.append(Line2D([], [], linestyle="", label=f"{len(trials) - len(drawn)} without a score"))
    if best:
        handles.insert(0, Line2D([], [], color=BEST_COLOR, lw=2.6, marker="*", markersize=11, markeredgecolor="white", label=_best_text(trials, *best)))
    _legend(figure, handles)
    return figure


def _plot_scores(trials: Sequence[TrialRecord], metric: Metric, scale: MetricAxis, best_place: int, best: EpochResult) -> Figure:
    """Trials with one result each: the results in the order of proposal, and the best so far as a line."""
    figure = SearchFigure(9, 5)
    axes = _frame(figure.add_subplot(), grid="both")
    numbers = np.array([record.number for record in trials])
    values = np.array([record.metric for record in trials])
    for status in STATUS_COLORS:
        drawn = np.array([record.status == status for record in trials]) & np.isfinite(values)
        axes.scatter(numbers[drawn], values[drawn], s=40, color=STATUS_COLORS[status], marker=POINTS[status], edgecolors="white", linewidths=0.6, zorder=3)
    so_far = (np.fmax if metric.higher_is_better else np.fmin).accumulate(values)
    axes.step(numbers, so_far, where="post", color=BEST_COLOR, lw=1.4, zorder=2)
    axes.plot(trials[best_place].number, best.metric, marker="*", markersize=14, color=BEST_COLOR, markeredgecolor="white", zorder=5)
    _metric_scale(axes, scale)
    axes.set(xlabel="trial", ylabel=_metric_label(metric), xlim=(-0.5, numbers.max() + 0.5))
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    _say_beyond(axes, scale)
    handles = [
        Line2D([], [], color=BEST_COLOR, marker="*", markersize=11, markeredgecolor="white", label=_best_text(trials, best_place, best)),
        Line2D([], [], color=BEST_COLOR, lw=1.4, label="the best so far"),
    ]
    _legend(figure, handles + _status_handles(trials, lambda status: {"linestyle": "", "marker": POINTS[status]}))
    return figure


def _say_beyond(axes: Axes, scale: MetricAxis) -> None:
    if scale.num_beyond:
        axes.text(0.99, 0.98, f"values beyond the axis: {scale.num_beyond}", transform=axes.transAxes, ha="right", va="top", fontsize=8, color=TEXT_COLOR)


def _xy(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


# ----------------------------------------------------------------------------------------------------- parallel coordinates

ABSENT_LEVEL = -0.14  # height at which a line passes an axis on which the trial has no value
SPREAD = 0.12  # greatest distance of a line from its option's tick, as a fraction of the option's share of the axis


@_picture("parallel_coordinates")
def plot_parallel_coordinates(trials: Sequence[TrialRecord], metric: Metric) -> Figure:
    """One line per trial, through the values that the search gave it to its best score. Darker is better."""
    tuned = tuned_axes(trials)
    if not tuned:
        raise NothingToDraw("parallel coordinates: no hyperparameter was tuned")
    scores = np.array([record.best.metric if record.best else math.nan for record in trials])
    has_score = np.isfinite(scores)
    scale = metric_axis(scores[has_score].tolist(), metric) if has_score.any() else None
    heights = np.full(len(trials), math.nan)
    if scale:
        heights[has_score] = scale.unit_positions(scores[has_score])
    goodness = heights if metric.higher_is_better else 1 - heights
    order = np.argsort(np.nan_to_num(goodness, nan=-1.0), kind="stable")  # the best are drawn last, on top
    levels = np.stack([*(_spread(axis, order) for axis in tuned), heights], axis=1)  # (N, axes + 1)
    is_absent = np.isnan(levels)
    levels[is_absent] = ABSENT_LEVEL

    longest = max(len(_label(name)) for name in (metric.name, *(axis.name for axis in tuned)))
    figure = SearchFigure(max(7.0, 2.2 + max(1.5, 0.09 * longest) * len(tuned)), 5)
    axes = figure.add_subplot()
    axes.set_axis_off()
    axes.set(xlim=(-0.45, len(tuned) + 0.45), ylim=(ABSENT_LEVEL - 0.04 if is_absent.any() else -0.04, 1.12))
    many, best = len(trials) > MANY, _best(trials)
    for row in order:
        style: dict[str, Any] = {"color": SHADES(goodness[row]), "lw": 1.1 if many else 1.6, "alpha": _paleness(0.85, trials)}
        if not has_score[row]:
            style = {"color": STATUS_COLORS[trials[row].status], "lw": 1.1, "linestyle": LINES[FAILED], "alpha": 0.9}
        elif best and row == best[0]:
            style = {"color": SHADES(1.0), "lw": 3.0, "zorder": 2.5}
        axes.plot(*_smooth(levels[row]), solid_capstyle="round", **style)
    for position, axis in enumerate(tuned):
        _upright(axes, position, axis.name, _unit_ticks(axis))
    _upright(axes, len(tuned), metric.name, _score_ticks(scale, metric) if scale else [], at_right=True)
    if scale:
        shades = np.linspace(0, 1, 256)[:, None] if metric.higher_is_better else np.linspace(1, 0, 256)[:, None]
        axes.imshow(shades, cmap=SHADES, extent=(len(tuned) - 0.015, len(tuned) + 0.025, 0, 1), aspect="auto", origin="lower", zorder=3)
    for column in np.flatnonzero(is_absent.any(axis=0)).tolist():
        text = "no score" if column == len(tuned) else "not set"
        axes.text(column, ABSENT_LEVEL - 0.02, text, ha="center", va="top", fontsize=8, color=TEXT_COLOR, style="italic")
    handles = [Line2D([], [], color=SHADES(1.0), lw=3, label=_best_text(trials, *best))] if best else []
    unscored = [record for record in trials if not record.best]
    _legend(figure, handles + _status_handles(unscored, lambda status: {"linestyle": LINES[FAILED]}, "{status}, no score"))
    return figure


def _spread(axis: Axis, order: np.ndarray) -> np.ndarray:
    """(N,) heights from 0 to 1. Trials with the same option are spread around its tick, so that their lines do not overlap, the best at the top."""
    if axis.kind != "options":
        return axis.unit_positions
    heights = (axis.positions + 0.5) / len(axis.options)
    rank = np.argsort(order)
    for option in range(len(axis.options)):
        rows = np.flatnonzero(axis.positions == option)
        heights[rows[np.argsort(rank[rows])]] += np.linspace(-SPREAD, SPREAD, len(rows)) / len(axis.options) if len(rows) > 1 else 0.0
    return heights


def _smooth(levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x and y of a curve through (0, levels[0]), (1, levels[1]), ... It is horizontal at each axis, so that lines can be followed across it."""
    step = np.linspace(0, 1, 25)
    ease = step * step * (3 - 2 * step)
    pairs = list(pairwise(levels))
    return np.concatenate([index + step for index in range(len(pairs))]), np.concatenate([low + (high - low) * ease for low, high in pairs])


def _upright(axes: Axes, position: float, name: str, ticks: Iterable[tuple[float, str]], at_right: bool = False) -> None:
    """Draws one axis of parallel coordinates, from height 0 to 1."""
    axes.plot([position, position], [0, 1], color=TEXT_COLOR, lw=1.0, zorder=3)
    axes.text(position, 1.06, _label(name), ha="center", va="bottom", fontsize=9, color=TEXT_COLOR, fontweight="bold" if at_right else "normal")
    side = 1 if at_right else -1
    box = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 0.8}
    ticks = list(ticks)
    for (height, _), text in zip(ticks, _labels([text for _, text in ticks], 18), strict=True):
        axes.plot([position, position + 0.025 * side], [height, height], color=TEXT_COLOR, lw=1.0, zorder=3)
        axes.text(position + 0.05 * side, height, text, ha="left" if at_right else "right", va="center", fontsize=8, color=TEXT_COLOR, bbox=box, zorder=5)


def _score_ticks(scale: MetricAxis, metric: Metric) -> list[tuple[float, str]]:
    """(height from 0 to 1, text) of each tick. The text at the bad end also says how many values lie beyond it."""
    ends = [scale.low, scale.high] if scale.high > scale.low else [scale.low]
    inner = [tick for tick in _nice_ticks(scale.low, scale.high, scale.is_log) if scale.low < tick < scale.high]
    positions = scale.unit_positions(np.array([*ends, *inner]))
    apart = [index for index in range(len(ends), len(positions)) if min(positions[index], 1 - positions[index]) > 0.06]
    chosen = [*range(len(ends)), *apart]
    texts = value_texts([[*ends, *inner][index] for index in chosen])
    if scale.num_beyond:
        bad = 0 if metric.higher_is_better else len(ends) - 1
        texts[bad] += f" and {scale.num_beyond} {'below' if metric.higher_is_better else 'above'}"
    return [(float(positions[index]), text) for index, text in zip(chosen, texts, strict=True)]


# -------------------------------------------------------------------------------------------------------------------- slice


@_picture("slice")
def plot_slice(trials: Sequence[TrialRecord], metric: Metric) -> Figure:
    """The best score of each trial against each of its hyperparameters. Trials without a score lie at the lower edge."""
    tuned = tuned_axes(trials)
    if not tuned:
        raise NothingToDraw("slice: no hyperparameter was tuned")
    best = _best(trials)
    if best is None:
        raise NothingToDraw("slice: no trial has a score yet")
    scores = np.array([record.best.metric if record.best else math.nan for record in trials])
    scored = np.isfinite(scores)
    scale = metric_axis(scores[scored].tolist(), metric)
    shown = np.clip(scores, scale.low, scale.high)
    inside = scored & (shown == scores)
    num_rows = math.ceil(len(tuned) / 4)
    num_columns = math.ceil(len(tuned) / num_rows)
    figure = SearchFigure(max(6.5, 0.8 + 2.9 * num_columns), 0.9 + 2.7 * num_rows)
    grid = figure.subplots(num_rows, num_columns, sharey=True, squeeze=False).flatten()
    size = 22 if len(trials) > MANY else 40
    for axes, axis in zip(grid, tuned, strict=False):
        _frame(axes, grid="y")
        places = _jittered(axis)
        for status in dict.fromkeys(record.status for record in trials):
            rows = np.array([record.status == status for record in trials])
            style: dict[str, Any] = {"marker": POINTS[status], "facecolors": STATUS_COLORS[status], "alpha": 0.85, "linewidths": 0.6, "edgecolors": "white"}
            hollow = style | {"facecolors": "none", "edgecolors": STATUS_COLORS[status], "linewidths": 1.2}
            for drawn, look in ((rows & inside, style), (rows & scored & ~inside, hollow)):
                axes.scatter(places[drawn], shown[drawn], s=size, **look, zorder=3)
            axes.scatter(places[rows & ~scored], np.full((rows & ~scored).sum(), 0.03), s=size, transform=axes.get_xaxis_transform(), **style, clip_on=False)
        axes.scatter(places[best[0]], shown[best[0]], s=190, marker="*", color=BEST_COLOR, linewidths=0.8, edgecolors="white", zorder=4)
        _metric_scale(axes, scale)
        low, high = axes.get_ylim()
        if not scored.all():  # room for trials without a score
            axes.set_ylim(low * (low / high) ** 0.12 if scale.is_log else low - 0.12 * (high - low), high)
        _value_ticks(axes, axis, 30 if num_columns < 4 else 22)
        num_absent = int(np.isnan(axis.positions).sum())
        axes.set_xlabel(_label(axis.name, 30) + (f"\n(not set in {num_absent})" if num_absent else ""))
    for axes in grid[len(tuned) :]:
        axes.set_axis_off()
    for axes in grid[::num_columns]:
        axes.set_ylabel(_metric_label(metric, LABEL_LENGTH).replace(" (", "\n("))
    handles = [Line2D([], [], linestyle="", color=BEST_COLOR, marker="*", markersize=12, label=_best_text(trials, *best))]
    handles += _status_handles(trials, lambda status: {"linestyle": "", "marker": POINTS[status]})
    if scale.num_beyond:
        hollow = {"marker": "o", "markersize": 6, "markerfacecolor": "none", "markeredgecolor": TEXT_COLOR}
        handles.append(Line2D([], [], linestyle="", label=f"beyond the axis ({scale.num_beyond})", **hollow))
    _legend(figure, handles)
    return figure


def _jittered(axis: Axis) -> np.ndarray:
    """(N,) positions. Trials with the same option lie side by side, in the order of proposal."""
    places = axis.positions.copy()
    if axis.kind == "options":
        for option in range(len(axis.options)):
            rows = np.flatnonzero(places == option)
            reach = min(0.22, 0.04 * (len(rows) - 1))  # a few stay close together, to be seen as one option
            places[rows] += np.linspace(-reach, reach, len(rows))
    return places


def _value_ticks(axes: Axes, axis: Axis, room: int) -> None:
    """Sets the ticks of an x axis on which the positions of an ``Axis`` are drawn.

    Args:
        room: number of characters that fit along the axis.
    """
    low, high = axis.bounds
    unit_ticks = _unit_ticks(axis)
    if axis.kind != "options":
        longest = max(len(text) for _, text in unit_ticks)
        unit_ticks = unit_ticks[:: math.ceil(len(unit_ticks) * longest / room)]
    margin, texts = 0.06 * (high - low) or 0.5, _labels([text for _, text in unit_ticks], 14)
    axes.set_xlim(low - margin, high + margin)
    axes.xaxis.set_major_locator(FixedLocator([low + height * (high - low) for height, _ in unit_ticks]))
    axes.xaxis.set_major_formatter(FixedFormatter(texts))
    if sum(map(len, texts)) > room:
        axes.tick_params(axis="x", labelrotation=25)
        for label in axes.get_xticklabels():
            label.set_horizontalalignment("right")


# ----------------------------------------------------------------------------------------------------------------- timeline


@_picture("timeline")
def plot_timeline(trials: Sequence[TrialRecord], metric: Metric) -> Figure:
    """When each trial ran, and how it ended: a line from its start to its end, and a bar as long as it trained, so the rest is waiting."""
    if not trials:
        raise NothingToDraw("timeline: no trial was started")
    begin = min(record.started for record in trials)
    spans = np.array([(record.started - begin, _ended(record) - begin) for record in trials])
    unit, name = next((unit, name) for unit, name, most in ((1, "seconds", 180), (60, "minutes", 10_800), (3600, "hours", math.inf)) if spans.max() <= most)
    spans /= unit
    figure = SearchFigure(9, min(9.0, 1.8 + 0.19 * len(trials)))
    axes = _frame(figure.add_subplot(), grid="x")
    shortest = 0.004 * spans.max()  # so that a trial that failed at once can be seen
    best, middles = _best(trials), []
    for place, (record, (start, end)) in enumerate(zip(trials, spans, strict=True)):
        trained = max(min(record.seconds / unit, end - start), shortest)
        left = max(start, end - trained)
        middles.append(left + trained / 2)
        axes.hlines(place, start, end, color=STATUS_COLORS[record.status], linewidth=1)
        axes.barh(place, trained, left=left, height=0.72, color=STATUS_COLORS[record.status])
    if best:
        axes.plot(middles[best[0]], best[0], marker="*", markersize=11, color=BEST_COLOR, markeredgecolor="white", markeredgewidth=0.6)
    step = max(1, math.ceil(len(trials) / 40 / 5) * 5 if len(trials) > 40 else 1)
    axes.set_yticks(range(0, len(trials), step), [str(record.number) for record in trials[::step]], fontsize=8)
    axes.set(xlabel=f"{name} since the first trial began", ylabel="trial", ylim=(len(trials) - 0.4, -0.6), xlim=(-0.01 * spans.max(), None))
    axes.tick_params(axis="y", length=0)
    handles = [Line2D([], [], linestyle="", color=BEST_COLOR, marker="*", markersize=11, label=_best_text(trials, *best))] if best else []
    _legend(figure, handles + _status_handles(trials, lambda status: {"linestyle": "", "marker": "s", "markersize": 8}))
    return figure


def _ended(record: TrialRecord) -> float:
    return max(record.started, record.ended or record.started + record.seconds)


# --------------------------------------------------------------------------------------------------------------- importance


@_picture("importance")
def plot_importance(trials: Sequence[TrialRecord], metric: Metric, evaluator: str = "fanova") -> Figure:
    """The share of the differences between the trials' scores that each hyperparameter explains (``hpo/importance.py``).

    Args:
        evaluator: ``fanova``, ``mdi`` or ``ped_anova``.

    Raises:
        InvalidArgument: the evaluator is unknown.
    """
    try:
        shares = importances(trials, metric, evaluator)
    except InvalidArgument as missing:
        if evaluator not in EVALUATORS:
            raise
        raise NothingToDraw(str(missing)) from None
    num_scored = sum(record.best is not None for record in trials)
    over = f"{num_scored} trials" if num_scored <= MOST_TRIALS else f"{MOST_TRIALS} of {num_scored} trials"
    figure = SearchFigure(8, 1.6 + 0.36 * len(shares))
    axes = _frame(figure.add_subplot(), grid="x")
    bars = axes.barh(
        [_label(short_name(str(key), shares.index), 40) for key in shares.index], shares.to_numpy() * 100, color=STATUS_COLORS[RUNNING], height=0.65
    )
    axes.bar_label(bars, [f"{share:.0%}" for share in shares], padding=4, fontsize=9, color=TEXT_COLOR)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, max(10.0, shares.max() * 110))
    axes.set(xlabel=f"share of the differences in {_label(metric.name)}, %\n({EVALUATORS[evaluator][0]} over {over} with a score)")
    return figure


# --------------------------------------------------------------------------------------------------------- shared helpers


def _best(trials: Sequence[TrialRecord]) -> tuple[int, EpochResult] | None:
    """The index of the best trial in ``trials``, and its best epoch; None if no trial has a score."""
    best = [(place, record.best) for place, record in enumerate(trials) if record.best]
    return max(best, key=lambda one: one[1].rank, default=None)


def _best_text(trials: Sequence[TrialRecord], place: int, best: EpochResult) -> str:
    return f"best: trial {trials[place].number}, {number_text(best.metric)} at epoch {best.epoch:g}"


def _paleness(alpha: float, trials: Sequence[TrialRecord]) -> float:
    """The opacity, reduced for many trials so that hundreds of lines do not merge into one area."""
    return max(0.1, min(alpha, 50 * alpha / len(trials)))


def _label(text: str, length: int = LABEL_LENGTH) -> str:
    """A user's text for matplotlib: cut, on one line, and escaped so that it is not read as a formula."""
    return cut(printable(text), length, in_the_middle=True).replace("$", r"\$")


def _labels(texts: Sequence[str], length: int) -> list[str]:
    """The labels of one axis. If some are too long, the common start and end of all is left out, and they are cut only as far as they stay distinct."""
    texts = [printable(text) for text in texts]
    if len(set(texts)) > 1 and max(map(len, texts)) > length:
        first = len(os.path.commonprefix(texts))  # noqa: RUF071  # of characters, not of folders
        last = len(os.path.commonprefix([text[:first:-1] for text in texts]))  # noqa: RUF071
        if first + last > 4:
            texts = [f"{'…' * (first > 0)}{text[first : len(text) - last]}{'…' * (last > 0)}" for text in texts]
    found: list[str] = []
    for size in range(length, MOST_OF_A_LABEL, 2):
        found = [_label(text, size) for text in texts]
        if len(set(found)) == len(set(texts)):
            break
    return found


def _metric_label(metric: Metric, length: int = 40) -> str:
    return _label(metric.name, length) + ("" if metric.higher_is_better else " (lower is better)")


def _frame(axes: Axes, grid: Any) -> Axes:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT_COLOR)
    axes.tick_params(colors=TEXT_COLOR, labelsize=9)
    axes.grid(axis=grid, color="#E8E8E8", lw=0.8)
    axes.set_axisbelow(True)
    return axes


def _metric_scale(axes: Axes, scale: MetricAxis) -> None:
    """Makes the y axis show a metric from the scale's low to its high."""
    low, high = scale.low, scale.high
    if not scale.is_log:
        room = 0.06 * (high - low) or 0.5 * abs(high) or 0.5
        axes.set_ylim(low - room, high + room)
        return
    axes.set_yscale("log")
    axes.set_ylim(low * (low / high) ** 0.06, high * (high / low) ** 0.06)
    axes.yaxis.set_major_locator(FixedLocator(_nice_ticks(low, high, True)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def _nice_ticks(low: float, high: float, is_log: bool) -> list[float]:
    """Round values from ``low`` to ``high``, about five."""

    def within(ticks: Iterable[float], rounding: float) -> list[float]:
        return [float(tick) for tick in ticks if low - rounding <= tick <= high + rounding]

    if is_log:
        decades = math.log10(high / low)
        ticks = within(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 2.5 else (1.0,), numticks=8).tick_values(low, high), 1e-9 * low)
        if len(ticks) > 2:  # else less than a decade is shown, and linear ticks tell more
            return ticks
    return within(MaxNLocator(5, steps=(1, 2, 5, 10)).tick_values(low, high), 1e-9 * (high - low))


def _unit_ticks(axis: Axis) -> list[tuple[float, str]]:
    """(height from 0 to 1, text) of each tick of an axis."""
    low, high = axis.bounds
    if axis.kind == "options":
        step = math.ceil(len(axis.options) / 12)
        return [((place + 0.5) / len(axis.options), text) for place, text in list(enumerate(axis.options))[::step]]
    first, last = (10**low, 10**high) if axis.kind == "log" else (low, high)
    if first == last:
        return [(0.5, value_text(float(first)))]
    ticks = _nice_ticks(first, last, axis.kind == "log")
    positions = np.log10(ticks) if axis.kind == "log" else np.array(ticks)
    return [(float((position - low) / (high - low)), text) for position, text in zip(positions, value_texts(ticks), strict=True)]


def _status_handles(trials: Sequence[TrialRecord], style: Callable[[str], dict[str, Any]], text: str = "{status}") -> list[Line2D]:
    """A legend entry for each status that occurs, with its count."""
    counts = Counter(record.status for record in trials)
    return [
        Line2D([], [], color=color, label=f"{text.format(status=status.lower())} ({counts[status]})", **({"lw": 1.6, "markersize": 6} | style(status)))
        for status, color in STATUS_COLORS.items()
        if status in counts
    ]


def _legend(figure: Figure, handles: list[Line2D]) -> None:
    if handles:
        num_columns = len(handles) if len(handles) <= 4 else math.ceil(len(handles) / 2)
        figure.legend(handles=handles, loc="outside lower center", ncols=num_columns, frameon=False, fontsize=9, labelcolor=TEXT_COLOR)
