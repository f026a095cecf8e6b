import io
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from automm_hpo import plots
from automm_hpo.errors import InvalidArgument
from automm_hpo.hpo.records import COMPLETED, DIVERGED, FAILED, RUNNING, STOPPED, TrialRecord
from automm_hpo.metrics import find_metric

ACCURACY, LOG_LOSS = find_metric("accuracy"), find_metric("log_loss")


def texts(figure) -> str:
    """All text on a figure."""
    figure.draw_without_rendering()  # writes the tick labels
    return " | ".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))


def render(figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


@pytest.mark.parametrize("name", plots.PICTURES)
@pytest.mark.parametrize(("count", "metric", "num_tuned"), [(2, ACCURACY, 3), (15, LOG_LOSS, 3), (50, ACCURACY, 10)])
def test_every_picture_is_drawn(make_trials, name, count, metric, num_tuned):
    figure = plots.PICTURES[name](make_trials(count, metric.name, num_tuned), metric)
    assert figure.axes
    assert render(figure)[:4] == b"\x89PNG"
    assert metric.name in texts(figure) or name == "timeline"


@pytest.mark.parametrize("name", plots.PICTURES)
def test_whatever_a_search_left_is_drawn_or_said(make_trials, curve, nasty, name):
    """One trial, no scores, texts that are formulas, lists as values, hyperparameters that some trials lack."""
    draw = plots.PICTURES[name]
    one = make_trials(1)
    nothing = [replace(one[0], status=FAILED, results=()), replace(one[0], number=1, status=DIVERGED, results=curve(ACCURACY, [math.nan]))]
    strange = [
        TrialRecord(0, {"a": nasty, nasty: 1, "c": [1, 2], "d": None}, {}, COMPLETED, results=curve(ACCURACY, [0.5])),
        TrialRecord(1, {"a": "x" * 300, "b": True, "c": [], "d": 3}, {}, STOPPED, results=curve(ACCURACY, [0.1, math.nan, 0.2])),
        TrialRecord(2, {"a": "y"}, {}, RUNNING),
    ]
    untuned = [TrialRecord(0, {}, {}, COMPLETED, results=curve(ACCURACY, [0.5, 0.6]))]
    same = [TrialRecord(number, {"a": 1.0}, {}, COMPLETED, results=curve(ACCURACY, [0.5])) for number in range(3)]
    for trials in ([], one, nothing, strange, untuned, same):
        figure = draw(trials, ACCURACY)
        assert render(figure)
        assert figure.axes or name.split("_")[0] in texts(figure)


def test_the_curves_show_the_best_on_top_and_where_others_were_stopped(make_trials, curve):
    trials = make_trials(15)
    segments = (*curve(ACCURACY, [0.1, 0.2]), *(replace(result, segment=1) for result in curve(ACCURACY, [0.15, 0.3])))
    trials.append(TrialRecord(15, {}, {}, COMPLETED, results=segments))
    figure = plots.plot_curves(trials, ACCURACY)
    best = max((trial for trial in trials if trial.best), key=lambda trial: trial.best.rank)
    assert f"best: trial {best.number}, {best.best.metric:.4f} at epoch 9" in texts(figure)
    assert "stopped (" in texts(figure)
    assert "without a score" in texts(figure)
    lines = figure.axes[0].lines
    thick = max(lines, key=lambda line: line.get_linewidth())
    np.testing.assert_allclose(thick.get_ydata(), [result.metric for result in best.results])
    drawn = [list(line.get_xdata()) for line in lines]
    assert drawn.count([1.0, 2.0]) == 2  # each segment is a line of its own
    assert figure.axes[0].get_yscale() == "linear"


def test_a_loss_that_runs_away_does_not_press_the_others_together(curve):
    metric = LOG_LOSS
    trials = [TrialRecord(number, {"optim.lr": 0.1 * number}, {}, COMPLETED, results=curve(metric, [2.0, 1.0 - 0.1 * number])) for number in range(5)]
    trials.append(TrialRecord(5, {"optim.lr": 1.0}, {}, STOPPED, results=curve(metric, [1e30])))
    figure = plots.plot_curves(trials, metric)
    low, high = figure.axes[0].get_ylim()
    assert 0.5 < low < 0.6
    assert 2 < high < 2.5
    assert "values beyond the axis: 1" in texts(figure)
    wide = [replace(trial, results=curve(metric, [10.0**trial.number])) for trial in trials[:5]]
    assert plots.plot_curves(wide, metric).axes[0].get_yscale() == "log"


def test_a_trial_beyond_the_axis_is_not_taken_for_one_at_its_end(curve):
    scores = [0.9034, 0.9032, 0.9030, 0.9031, 0.9033, 0.70]
    trials = [TrialRecord(number, {"lr": 0.1 * number}, {}, COMPLETED, results=curve(ACCURACY, [score])) for number, score in enumerate(scores)]
    figure = plots.plot_slice(trials, ACCURACY)
    assert "beyond the axis (1)" in texts(figure)
    [hollow] = [dots for dots in figure.axes[0].collections if len(dots.get_offsets()) and not len(dots.get_facecolors())]
    np.testing.assert_allclose(hollow.get_offsets(), [[0.5, 0.903]])
    written = texts(plots.plot_parallel_coordinates(trials, ACCURACY))
    assert {"0.9034", "0.9033", "0.9032", "0.9031", "0.903 and 1 below"} <= set(written.split(" | "))  # with three digits they would look alike
    losses = [replace(trial, results=curve(LOG_LOSS, [1 - score])) for trial, score in zip(trials, scores, strict=True)]
    assert "0.097 and 1 above" in texts(plots.plot_parallel_coordinates(losses, LOG_LOSS))


def test_axes_are_logarithmic_where_the_values_are(make_trials):
    figure = plots.plot_slice(make_trials(50), ACCURACY)
    written = texts(figure)
    assert "0.0001" in written  # a tick of lr, which was drawn log-uniformly
    assert "adamw" in written
    assert "failed" in written


def test_importance_names_its_evaluator_and_what_it_lacks(make_trials):
    trials = make_trials(30)
    assert "fANOVA over" in texts(plots.plot_importance(trials, ACCURACY))
    assert "PED-ANOVA over" in texts(plots.plot_importance(trials, ACCURACY, evaluator="ped_anova"))
    assert "expected at least 2 trials with different scores; 1 of 1 have a score" in texts(plots.plot_importance(make_trials(1), ACCURACY))
    with pytest.raises(InvalidArgument, match=r"evaluator: expected one of fanova, mdi, ped_anova, got 'fanovo'. Did you mean fanova\?"):
        plots.plot_importance(trials, ACCURACY, evaluator="fanovo")


def test_the_timeline_has_a_bar_for_the_time_of_each_trial(make_trials):
    trials = [replace(trial, number=number, started=1e9 + 5 * number) for number, trial in enumerate(make_trials(1) * 10)]
    figure = plots.plot_timeline(trials, ACCURACY)
    assert "seconds since the first trial began" in texts(figure)
    assert [bar.get_x() for bar in figure.axes[0].patches] == [5 * number for number in range(10)]
    assert {round(bar.get_width(), 6) for bar in figure.axes[0].patches} == {trials[0].seconds}
    waited = replace(trials[0], number=10, started=1e9, ended=1e9 + 100)  # it was interrupted, and went on
    *_, bar = plots.plot_timeline([*trials, waited], ACCURACY).axes[0].patches
    assert (bar.get_x(), round(bar.get_width(), 6)) == (pytest.approx(100 - trials[0].seconds), trials[0].seconds)
    late = replace(trials[0], started=1e9 + 600)
    assert "minutes since the first trial began" in texts(plots.plot_timeline([*trials, late], ACCURACY))


def test_figures_are_those_that_can_be_drawn_and_never_raise(make_trials, monkeypatch):
    names = {f"{name}.png" for name in plots.PICTURES}
    assert set(dict(plots.figures(make_trials(15), ACCURACY))) == names
    assert set(dict(plots.figures([], ACCURACY))) == set()
    untuned = [replace(trial, tuned={}) for trial in make_trials(5)]
    assert set(dict(plots.figures(untuned, ACCURACY))) == {"curves.png", "timeline.png"}
    monkeypatch.setitem(plots.PICTURES, "curves", lambda trials, metric: 1 / 0)
    assert set(dict(plots.figures(make_trials(15), ACCURACY))) == names - {"curves.png"}


def test_pyplot_and_its_settings_are_left_alone():
    code = (
        "import matplotlib, sys; before = matplotlib.rcParams.copy(); from automm_hpo import plots; from automm_hpo.metrics import find_metric; "
        "figure = plots.plot_timeline([], find_metric('accuracy')); assert figure._repr_png_()[:4] == b'\\x89PNG'; "
        "print('matplotlib.pyplot' in sys.modules, matplotlib.rcParams.copy() == before)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False True"


@pytest.mark.parametrize("metric", [ACCURACY, LOG_LOSS])
def test_trials_of_one_result_are_drawn_in_their_order_with_the_best_so_far(make_trials, metric):
    trials = [replace(trial, results=trial.results[:1]) for trial in make_trials(15, metric.name)]
    figure = plots.plot_curves(trials, metric)
    assert figure.axes[0].get_xlabel() == "trial"
    values = [trial.metric for trial in trials]
    found = (np.fmax if metric.higher_is_better else np.fmin).accumulate(values)
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_ydata(), found)
    assert "the best so far" in texts(figure)


@pytest.mark.parametrize(
    ("low", "high", "is_log"), [(2.6e-4, 433139.0, True), (1e-4, 2e-4, True), (1e9, 1e9 + 7, False), (-3.0, 5e4, False), (0.0, 1e-12, False)]
)
def test_ticks_lie_on_their_axis(low, high, is_log):
    ticks = plots._nice_ticks(low, high, is_log)
    assert len(ticks) >= 2
    assert all(low - 1e-6 * (high - low if not is_log else low) <= tick <= high * (1 + 1e-6) for tick in ticks)


@pytest.mark.parametrize(
    ("texts", "shown"),
    [
        (["sgd", "adamw"], ["sgd", "adamw"]),
        ([f"value number {number} of param 2" for number in range(3)], ["…0…", "…1…", "…2…"]),
        (["vit_base_patch16_224.augreg_in21k_ft_in1k", "vit_base_patch32_224.augreg_in21k_ft_in1k"], ["…16…", "…32…"]),
        (["a" * 50] * 2, ["aaaaaaaaa…aaaa"] * 2),
        (["a", "a" * 50], ["a", "aaaaaaaaa…aaaa"]),
        ([], []),
    ],
)
def test_labels_of_one_axis_differ(texts, shown):
    assert plots._labels(texts, 14) == shown


def test_names_of_models_that_are_alike_are_cut_less():
    names = [f"convnext_{size}.fb_in22k_ft_in1k" for size in ("tiny", "small", "base", "large")] + ["vit_base_patch16_224.augreg_in21k_ft_in1k"]
    labels = plots._labels(names, 14)
    assert len(set(labels)) == 5
    assert max(map(len, labels)) <= 20
