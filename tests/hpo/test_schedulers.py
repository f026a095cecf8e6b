"""Schedulers: the rule of each one, and what all of them must guarantee, on simulated trials and once on Ray."""

import json
import math
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, HyperBandForBOHB, HyperBandScheduler, MedianStoppingRule, PopulationBasedTraining
from simulated_ray import SimulatedSearch, SimulatedTrial
from toy_trials import read_rows, run_toys

from automm_hpo import space as words
from automm_hpo.errors import InvalidTuneSettings, NotSupported
from automm_hpo.hpo.reports import TrialReports
from automm_hpo.hpo.scheduler_args import SCHEDULER_ARGS
from automm_hpo.hpo.schedulers import SCHEDULERS, build_scheduler, check_given_scheduler
from automm_hpo.hpo.schedulers.halving import hyperband_brackets
from automm_hpo.hpo.schedulers.policies import Bandit, Curve, Median, Truncation
from automm_hpo.hpo.trial import TrialStep, TrialTask
from automm_hpo.space import Choice, Float, Int
from automm_hpo.training.result import EpochResult

SPACE = {"optim.lr": Float(1e-4, 1.0, log=True)}
NEEDED = {"bandit": {"slack_factor": 0.1}, "truncation": {"truncation_percentage": 30}}
POPULATIONS = ["PBT", "PB2"]
POLICIES = ["median", "bandit", "truncation"]
CHEAP = [name for name in SCHEDULERS if name != "PB2"]  # PB2 takes a second to choose values; its trials meet like PBT's
STOPPING = [name for name in SCHEDULERS if name not in ("FIFO", *POPULATIONS)]


def build(name, max_epochs=12, warmup_epochs=0.0, seed=0, space=None, **args):
    settings = SimpleNamespace(scheduler=name, scheduler_init_args=NEEDED.get(name, {}) | args)
    return build_scheduler(settings, space or SPACE, max_epochs, warmup_epochs, seed)


def ladder(num_trials, length, low=0.2, high=0.9, sign=1.0):
    """Rising curves that keep their order: the last trial is the best."""
    ends = np.linspace(low, high, num_trials)
    return [[sign * float(end * (1 - 0.5 ** (step + 1))) if sign > 0 else -float((1 - end) * (1 + 0.5**step)) for step in range(length)] for end in ends]


def configs(num_trials, seed=0, space=SPACE):
    """The configs of a population: each trial's number and values."""
    return [
        {"trial": number, "segment": 0} | {key: domain.finish(domain.draw(np.random.default_rng([seed, number]))) for key, domain in space.items()}
        for number in range(num_trials)
    ]


def gain(config):
    """What one epoch adds, most at a learning rate of 0.1."""
    return math.exp(-(math.log10(config["optim.lr"] / 0.1) ** 2))


def search(name, curves, places=2, interval=1.0, **arguments):
    max_epochs = math.ceil(max(map(len, curves)) * interval)
    scheduler = arguments.pop("scheduler", None) or build(name, max_epochs, **arguments.pop("args", {}))
    return SimulatedSearch(scheduler, curves, configs(len(curves)), places=places, interval=interval, **{"last_first": True} | arguments)


# ------------------------------------------------------------------------------------------------------------- all of them


@pytest.mark.parametrize("name", ["HyperBand", "BOHB", "PBT"])
def test_where_a_search_is_cut_short_nothing_is_decided_among_those_that_wait(name):
    """More trials may join when it goes on."""
    args = {"perturbation_interval": 1.0} if name == "PBT" else {}
    found, ends = search(name, ladder(9, 9), places=9, args=args, kill_after=5).run(), []
    found.searcher.is_cut_short, found.searcher.end_search = True, lambda: ends.append(len(found.stopped))
    found.search_alg.is_finished = lambda: True
    for trial in found.trials:
        if trial.trains:
            found._end(trial)  # interrupted
    for _ in range(5):
        found.scheduler.choose_trial_to_run(found)
    assert set(ends) == {0}
    assert len(found.scheduler._live) == 5


@pytest.mark.parametrize("name", POPULATIONS)
def test_a_rounded_log_normal_may_be_0(name):
    domain = words.qlognormal(-3, 1, 0.1)
    assert domain.corners()[0] == 0
    space = {"optim.weight_decay": domain}
    found = SimulatedSearch(
        build(name, perturbation_interval=3.0, space=space), lambda config: 1 - config["optim.weight_decay"], configs(4, space=space), length=12, places=4
    ).run()
    values = {trial.config["optim.weight_decay"] for trial in found.trials}
    assert all(0 <= value <= domain.corners()[1] for value in values)
    assert 0 in values


def test_every_scheduler_has_its_arguments():
    assert set(SCHEDULERS) == set(SCHEDULER_ARGS)


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("sign", [1.0, -1.0], ids=["more is better", "errors"])
@pytest.mark.parametrize("interval", [1.0, 0.5], ids=["epochs", "half epochs"])
def test_the_best_of_parallel_trials_goes_on_and_the_worst_does_not(name, sign, interval):
    length = round(12 / interval)
    found = search(name, ladder(9, length, sign=sign), places=9, interval=interval, args={"perturbation_interval": 4.0} if name in POPULATIONS else {}).run()
    assert found.epochs[8] == 12
    assert len({(row.trial, row.segment, row.epoch) for row in found.rows}) == len(found.rows)
    if name in STOPPING:
        assert found.epochs[0] < 12
        assert 0 in found.stopped
        assert 8 not in found.stopped
    else:
        assert not found.stopped
        assert set(found.epochs.values()) == {12}


@pytest.mark.parametrize("name", ["HyperBand", "BOHB", *POLICIES])
def test_a_bad_trial_that_is_always_ahead_does_not_escape(name):
    found = search(name, ladder(9, 12), places=9, last_first=False).run()
    assert 0 in found.stopped
    assert 8 not in found.stopped


@pytest.mark.parametrize("name", CHEAP)
@pytest.mark.parametrize("places", [1, 2, 5])
@pytest.mark.parametrize("num_trials", [1, 2, 4, 10, 19])
def test_every_trial_gets_its_turn_and_its_end_however_few_the_places(name, places, num_trials):
    found = search(name, ladder(num_trials, 12), places=places).run()
    assert len(found.finished) == num_trials
    assert min(found.epochs.values()) >= 1
    assert max(found.epochs.values()) == 12
    assert found.most_running <= places


@pytest.mark.parametrize("name", STOPPING)
@pytest.mark.parametrize("interval", [1.0, 0.5])
@pytest.mark.parametrize("warmup_epochs", [0.0, 2.5, 5.0])
def test_no_trial_is_judged_within_the_warm_up(name, interval, warmup_epochs):
    for args in ({}, {"delay_evaluation": 1.0}) if name in POLICIES else ({"reduction_factor": 2.0}, {"reduction_factor": 2.0, "grace_period": 1.0}):
        found = search(name, ladder(9, round(12 / interval)), places=9, interval=interval, args={"warmup_epochs": warmup_epochs, **args}).run()
        assert found.stopped
        assert min(found.stopped.values()) >= warmup_epochs


@pytest.mark.parametrize("name", STOPPING)
def test_a_trial_that_begins_badly_is_judged_after_the_grace_only(name):
    """U-shaped and crossing curves: the trial that is best in the end starts as the worst."""
    late = [0.1, 0.1, 0.1, 0.1] + [0.95] * 8
    curves = [*ladder(8, 12, 0.5, 0.8), late]
    grace = {"delay_evaluation": 5.0} if name in POLICIES else {"grace_period": 5.0, "reduction_factor": 2.0}
    found = search(name, curves, places=9, args=grace).run()
    assert found.epochs[8] == 12
    assert found.stopped


@pytest.mark.parametrize("name", STOPPING)
def test_a_trial_that_falls_again_is_judged_by_its_best(name):
    """A trial contributes its best epoch, so overfitting does not end it."""
    peak = [0.3, 0.6, 0.9, 0.95] + [0.1] * 8
    found = search(name, [*ladder(8, 12, 0.2, 0.6), peak], places=9).run()
    assert 8 not in found.stopped


@pytest.mark.parametrize("name", CHEAP)
def test_diverged_trials_and_missing_scores_stop_nothing(name):
    curves = [[math.nan], [0.1, 0.2, math.nan], *ladder(7, 12)]
    found = search(name, curves, places=3).run()
    assert len(found.finished) == 9
    assert found.epochs[8] == 12


@pytest.mark.parametrize("name", CHEAP)
@pytest.mark.parametrize("places", [2, 6])
def test_trials_that_end_by_themselves_or_lose_their_process_keep_nobody_waiting(name, places):
    curves = [curve[:length] for curve, length in zip(ladder(9, 12), (3, 12, 5, 12, 12, 1, 12, 8, 12), strict=True)]
    found = search(name, curves, places=places, fails_at={1: 2, 4: 4, 6: 0, 8: 6}).run()
    assert len(found.finished) == 9
    assert found.epochs[8] == 12


def random_search(make_scheduler, seed, **arguments):
    """Up to 30 trials of up to 27 epochs on any number of places; about half end early, and some lose their process."""
    rng = np.random.default_rng(seed)
    num_trials = int(rng.integers(1, 31))
    lengths = np.where(rng.random(num_trials) < 0.5, 27, rng.integers(1, 28, num_trials))
    curves = [ladder(30, 27)[rank][:length] for rank, length in zip(rng.permutation(30), lengths, strict=False)]
    fails_at = {int(number): int(rng.integers(0, 27)) for number in rng.integers(0, num_trials, 4)}
    places = int(rng.integers(1, 31))
    return SimulatedSearch(make_scheduler(), curves, configs(num_trials), places=places, fails_at=fails_at, **arguments)


@pytest.mark.parametrize("name", ["HyperBand", "BOHB", "PBT", "Ray's HyperBand"])
def test_nobody_waits_for_ever(name):
    """Ray's own HyperBand silently leaves 14 of 200 such searches without an end."""

    def make_scheduler():
        if name == "Ray's HyperBand":
            given = HyperBandScheduler(time_attr="epoch", max_t=27)
            return build_scheduler(SimpleNamespace(scheduler=given, scheduler_init_args={}), SPACE, 27, 0.0, 0)
        return build(name, 27)

    for seed in range(60):
        first = random_search(make_scheduler, seed, kill_after=(seed * 7) % 150 + 1).run()
        found = random_search(make_scheduler, seed, earlier=first, last_is_fresh=bool(seed % 2)).run()
        assert len(found.finished) == found.num_trials
        assert len({(row.trial, row.segment, row.epoch) for row in found.rows}) == len(found.rows)


# ------------------------------------------------------------------------------------------------------------------ resume


@pytest.mark.parametrize("name", CHEAP)
@pytest.mark.parametrize("last_is_fresh", [False, True])
@pytest.mark.parametrize("kill_after", [1, 5, 11, 18, 26, 33, 45])
def test_a_resumed_search_repeats_no_row_and_stops_no_trial_by_its_record(name, last_is_fresh, kill_after):
    curves = ladder(10, 12)
    first = search(name, curves, places=3, kill_after=kill_after).run()
    again = search(name, curves, places=3, earlier=first, last_is_fresh=last_is_fresh).run()
    assert len({(row.trial, row.segment, row.epoch) for row in again.rows}) == len(again.rows)
    assert len(again.finished) == 10
    assert max(again.epochs.values()) == 12
    for number in first.finished:
        assert again.epochs[number] == first.epochs[number]
        assert not [row for row in again.new_rows if row.trial == number]


@pytest.mark.parametrize("name", ["FIFO", "HyperBand", "BOHB", "PBT"])
@pytest.mark.parametrize("kill_after", range(1, 60, 3))
def test_schedulers_whose_trials_wait_come_to_the_same_end_after_a_kill(name, kill_after):
    def run(**arguments):
        if name == "PBT":
            scheduler = build(name, perturbation_interval=3.0)
            return SimulatedSearch(scheduler, gain, configs(5), length=12, places=2, **arguments).run()
        return search(name, ladder(10, 12), places=3, **arguments).run()

    whole, first = run(), run(kill_after=kill_after)
    again = run(earlier=first, last_is_fresh=True)
    assert again.epochs == whole.epochs
    if all(trial.on_record in ({}, trial.config) for trial in first.trials):  # else the kill came between a trial's exchange and its start
        assert sorted(again.rows, key=repr) == sorted(whole.rows, key=repr)


def test_pb2_goes_on_after_a_kill():
    first = SimulatedSearch(build("PB2", perturbation_interval=3.0), gain, configs(4), length=12, places=2, kill_after=30).run()
    again = SimulatedSearch(build("PB2", perturbation_interval=3.0), gain, configs(4), length=12, places=2, earlier=first).run()
    assert set(again.epochs.values()) == {12}
    assert len({(row.trial, row.segment, row.epoch) for row in again.rows}) == len(again.rows)


@pytest.mark.parametrize("name", STOPPING)
def test_what_was_on_record_counts_in_later_decisions(name):
    """A bad trial is stopped as soon as if the good ones on record had just run."""
    num_before = sum(bracket.size for bracket in hyperband_brackets(12, 1, 3)[:1]) - 1  # so that all trials share one bracket of HyperBand
    curves = [*ladder(num_before, 12, 0.7, 0.9), [0.1] * 12]
    before = search(name, curves[:-1], places=4).run()
    resumed = search(name, curves, places=4, earlier=before).run()
    assert resumed.epochs[num_before] < 12
    assert {row.trial for row in resumed.new_rows} == {num_before}


@pytest.mark.parametrize("name", CHEAP)
def test_more_trials_may_follow(name):
    """The same search is called again with a higher num_trials."""
    curves = ladder(14, 12)
    first = search(name, curves[:5], places=2).run()
    again = search(name, curves, places=2, earlier=first).run()
    assert len(again.finished) == 14
    assert again.epochs[13] == 12
    assert not [row for row in again.new_rows if row.trial < 5]


# ---------------------------------------------------------------------------------------------------- HyperDrive's policies


def decisions(policy, *curves, interval=1.0):
    """The epoch at which each trial is stopped if all run side by side and report in order."""
    trials = [SimpleNamespace(trial_id=str(number)) for number in range(len(curves))]
    stopped = {}
    for trial in trials:
        policy.on_trial_add(None, trial)
    for step in range(max(map(len, curves))):
        for number, (trial, curve) in enumerate(zip(trials, curves, strict=True)):
            if number not in stopped and step < len(curve):
                result = {"epoch": (step + 1) * interval, "score": curve[step]}
                if policy.on_trial_result(None, trial, result) == "STOP":
                    stopped[number] = result["epoch"]
                    policy.on_trial_complete(None, trial, result)
    return stopped


def test_bandit_by_azures_examples():
    """The best run has 0.8: a slack factor of 0.2 stops scores below 0.8 / 1.2, a slack amount of 0.2 those below 0.6."""
    curves = [[0.8] * 12, [0.67] * 12, [0.66] * 12, [0.61] * 12, [0.59] * 12]
    assert set(decisions(Bandit(10, 0, slack_factor=0.2), *curves)) == {2, 3, 4}
    assert set(decisions(Bandit(10, 0, slack_amount=0.2), *curves)) == {4}
    # the trial's best is compared with the best run's at the same epoch, not with its later values
    assert decisions(Bandit(2, 2, slack_factor=0.2), [0.1, 0.5, 0.9, 0.9, 0.9], [0.5, 0.1, 0.1, 0.1, 0.1]) == {1: 4}


@pytest.mark.parametrize(("best", "least"), [(0.8, 0.8 / 1.1), (-0.8, -0.88), (0.0, 0.0), (1e-9, 1e-9 / 1.1), (-1e-9, -1.1e-9), (120.0, 120 / 1.1)])
def test_a_bandits_ratio_is_of_the_distance_to_zero(best, least):
    assert Bandit(1, 0, slack_factor=0.1).least(best) == pytest.approx(least)


@pytest.mark.parametrize("factor", [0.0, 0.1, 1.0, 10.0])
def test_a_bandits_slack_grows_with_the_best_and_never_ends_the_best(factor):
    least = [Bandit(1, 0, slack_factor=factor).least(best) for best in np.linspace(-2, 2, 41)]
    assert least == sorted(least)
    assert all(low <= best + 1e-12 for low, best in zip(least, np.linspace(-2, 2, 41), strict=True))


def test_bandit_on_an_error_is_the_mirror_of_azures_example():
    """With 10 as the best rmse and a slack factor of 0.2, errors above 12 are stopped."""
    curves = [[-10.0] * 4, [-11.9] * 4, [-12.1] * 4]
    assert decisions(Bandit(1, 2, slack_factor=0.2), *curves) == {2: 2}


def test_truncation_by_azures_example():
    """20 % at every interval from 5 on stops the two of ten trials that are lowest at 5."""
    worst_first = [[score / 10] * 7 for score in range(10)]  # judged at 6, when all have reached 5
    assert decisions(Truncation(1, 5, 20), *worst_first) == {0: 6, 1: 6}
    assert decisions(Truncation(1, 5, 9), *worst_first) == {}
    # later those two are still the lowest two of ten; without them, another is the lowest fifth of the eight that reach 7
    longer = [curve * 2 for curve in worst_first]
    assert decisions(Truncation(1, 5, 20), *(curve[:9] for curve in longer)) == {0: 6, 1: 6}
    assert decisions(Truncation(1, 5, 20, exclude_finished_jobs=True), *(curve[:9] for curve in longer)) == {0: 6, 1: 6, 2: 8}


def test_truncation_cuts_no_equals():
    assert decisions(Truncation(1, 1, 99), *([[0.5] * 4] * 6)) == {}
    assert decisions(Truncation(1, 1, 50), [0.1] * 3, [0.1] * 3, [0.9] * 3, [0.9] * 3) == {0: 2, 1: 2}
    assert decisions(Truncation(1, 1, 25), [0.1] * 3, [0.1] * 3, [0.9] * 3, [0.9] * 3) == {}  # the lowest two are equal, so neither is cut


def test_a_young_trial_is_compared_with_what_older_ones_had_at_its_age():
    scheduler = Truncation(1, 1, 50)
    old, older, young = (SimpleNamespace(trial_id=name) for name in ("old", "older", "young"))
    for trial in (old, older, young):
        scheduler.on_trial_add(None, trial)
    for epoch in range(1, 11):
        scheduler.on_trial_result(None, older, {"epoch": epoch, "score": 0.1 * epoch, "replayed": True})
        scheduler.on_trial_result(None, old, {"epoch": epoch, "score": 0.05 * epoch, "replayed": True})
    assert scheduler.on_trial_result(None, young, {"epoch": 1, "score": 0.07}) == "CONTINUE"  # far below what the others have by now
    assert scheduler.on_trial_result(None, young, {"epoch": 2, "score": 0.07}) == "STOP"


def test_trials_that_have_not_come_as_far_are_no_measure_unless_they_ended():
    def long_trials_end(short_has_ended):
        scheduler = Bandit(3, 3, slack_amount=0.1)
        short, long = (SimpleNamespace(trial_id=name) for name in ("short", "long"))
        for trial in (short, long):
            scheduler.on_trial_add(None, trial)
        scheduler.on_trial_result(None, short, {"epoch": 1, "score": 0.9})
        if short_has_ended:
            scheduler.on_trial_complete(None, short, {"done": True})
        return [scheduler.on_trial_result(None, long, {"epoch": epoch, "score": 0.5}) for epoch in (1, 2, 3)]

    assert long_trials_end(False) == ["CONTINUE"] * 3
    assert long_trials_end(True) == ["CONTINUE", "CONTINUE", "STOP"]


def test_median_by_azures_definition():
    """A trial ends at interval N if its best up to N is below the median of all trials' averages over 1..N."""
    curves = [[0.8, 0.8, 0.8, 0], [0.6, 0.6, 0.6, 0], [0.5, 0.5, 0.5, 0], [0.2, 0.4, 0.6, 0], [0.1, 0.49, 0.3, 0]]
    # averages at 2: 0.8, 0.6, 0.5, 0.3, then 0.295; median of four 0.55, of five 0.5; bests of the last two 0.4 and 0.49
    assert decisions(Median(2, 0, 3), *curves) == {3: 2, 4: 2}
    # averages at 3: 0.8, 0.6, 0.5, 0.4, then 0.297; the fourth trial's best is 0.6 by then
    assert decisions(Median(3, 0, 3), *curves) == {4: 3}


def test_median_needs_some_trials():
    curves = [[0.9] * 4, [0.8] * 4, [0.1] * 4]
    assert decisions(Median(1, 1, 3), *curves) == {}
    assert set(decisions(Median(1, 1, 2), *curves)) == {2}
    assert set(decisions(Median(1, 1, 3), [0.85] * 4, *curves)) == {2, 3}


@pytest.mark.parametrize(("interval", "delay", "due"), [(1, 0, 1), (1, 5, 5), (2, 5, 6), (3, 0, 3), (3, 3, 3), (0.5, 0, 0.5), (2.5, 1, 2.5), (10, 0, 10)])
@pytest.mark.parametrize("validations", [1, 2, 10])
def test_policies_look_at_multiples_of_the_interval_from_the_delay_on(interval, delay, due, validations):
    step = 1 / validations
    first = math.ceil(due / step - 1e-9) * step
    stopped = decisions(Bandit(interval, delay, slack_amount=0), *[[score] * round(12 / step) for score in (0.9, 0.1)], interval=step)
    assert stopped == {1: pytest.approx(first)}


def test_a_trial_is_looked_at_once_an_interval_however_often_it_validates():
    policy = Bandit(2, 3, slack_amount=0)
    looks = {end / 4: policy.looks((end - 1) / 4, end / 4) for end in range(1, 41)}
    assert {epoch: found for epoch, found in looks.items() if found} == {4: [4], 6: [6, 4], 8: [8, 6], 10: [10, 8]}


def test_a_curve_that_is_reported_twice_counts_once():
    curve = Curve()
    for epoch, score in ((1, 0.1), (2, 0.9), (3, 0.3), (2, 0.2), (3, 0.6)):
        curve.add(epoch, score)
    assert curve.epochs == [1, 2, 3]
    assert curve.best == [0.1, 0.2, 0.6]
    assert curve.means == pytest.approx([0.1, 0.15, 0.3])


def test_policies_stay_quick_with_a_thousand_trials():
    scheduler = build("median")
    for number in range(1000):
        scheduler.on_trial_add(None, SimpleNamespace(trial_id=str(number)))
    started = time.perf_counter()
    for epoch in range(1, 21):
        for number in range(0, 1000, 10):
            scheduler.on_trial_result(None, SimpleNamespace(trial_id=str(number)), {"epoch": float(epoch), "score": math.sin(number)})
    assert (time.perf_counter() - started) / 2000 < 0.01  # seconds per result


# ------------------------------------------------------------------------------------------------- ASHA, HyperBand and BOHB


def test_asha_draws_brackets_by_seed_and_trial():
    def drawn(seed):
        scheduler = build("ASHA", 81, seed=seed, grace_period=1.0, brackets=4)
        for number in range(20):
            scheduler.on_trial_add(None, SimpleNamespace(trial_id=str(number), config={"trial": number}))
        return [scheduler._brackets.index(scheduler._trial_info[str(number)]) for number in range(20)]

    state = np.random.get_state()[1].tolist()
    assert drawn(1) == drawn(1) != drawn(2)
    assert len(set(drawn(1))) > 1
    assert np.random.get_state()[1].tolist() == state


@pytest.mark.parametrize(
    ("given", "expected"), [((81, 1, 3), [(81, 1.0), (34, 3.0), (15, 9.0), (8, 27.0), (5, 81.0)]), ((20, 1, 3), [(9, 20 / 9), (5, 20 / 3), (3, 20.0)])]
)
def test_hyperbands_brackets_are_the_papers(given, expected):
    brackets = hyperband_brackets(*given)
    assert [(bracket.size, bracket.milestones[0]) for bracket in brackets] == [(size, pytest.approx(first)) for size, first in expected]
    assert all(bracket.milestones[-1] == given[0] for bracket in brackets)


@pytest.mark.parametrize("max_t", [1, 2, 5, 20, 81, 2.5])
@pytest.mark.parametrize("grace_period", [1, 2, 5])
@pytest.mark.parametrize("reduction_factor", [2, 3, 4.5])
def test_hyperband_judges_nobody_before_the_grace(max_t, grace_period, reduction_factor):
    brackets = hyperband_brackets(max_t, grace_period, reduction_factor)
    assert brackets[-1].milestones == (max_t,)
    assert all(bracket.milestones[0] >= min(max_t, grace_period) - 1e-9 for bracket in brackets)
    assert all(bracket.size >= 1 for bracket in brackets)


@pytest.mark.parametrize("places", [1, 2, 9])
def test_a_bracket_is_halved_when_all_have_come_whatever_their_order(places):
    """Nine trials, milestones at 4/3, 4 and 12 epochs: three pass the first, one the second."""
    order = np.random.default_rng(3).permutation(9)
    curves = [ladder(9, 12)[rank] for rank in order]
    found = search("HyperBand", curves, places=places).run()
    ended = sorted(found.epochs.values())
    assert ended == [2] * 6 + [4] * 2 + [12]
    assert {rank: found.epochs[number] for number, rank in enumerate(order)} == {**dict.fromkeys(range(6), 2), 6: 4, 7: 4, 8: 12}


def test_survivors_come_before_new_trials():
    """Even a search that is cut short then has complete trials."""
    found = search("HyperBand", ladder(40, 12), places=2, kill_after=45).run()
    assert max(found.epochs.values()) == 12


def test_trials_with_places_of_their_own_are_not_paused():
    assert search("HyperBand", ladder(9, 12), places=9).run().num_pauses == 0
    assert SimulatedSearch(build("PBT", perturbation_interval=3.0), [[0.5] * 12] * 4, configs(4), places=4).run().num_pauses == 0


@pytest.mark.parametrize("num_trials", range(1, 20))
def test_an_unfilled_bracket_is_halved_all_the_same(num_trials):
    found = search("HyperBand", ladder(num_trials, 12), places=4).run()
    assert found.epochs[num_trials - 1] == 12
    assert len(found.finished) == num_trials
    if 3 <= num_trials <= 9:
        assert sum(epochs == 12 for epochs in found.epochs.values()) == 1


def test_bohb_tells_its_searcher_each_budget_once():
    found = search("BOHB", ladder(9, 12), places=3).run()
    budgets = {number: [] for number in range(9)}
    for trial_id, result in found.searcher.heard:
        assert "hyperband_info" in result
        if "budget" in result["hyperband_info"]:
            budgets[int(trial_id.removeprefix("id"))].append((result["hyperband_info"]["budget"], result["best_score"]))
    assert [[round(budget, 2) for budget, _ in told] for told in budgets.values()] == [[1.33]] * 6 + [[1.33, 4]] * 2 + [[1.33, 4, 12]]
    assert budgets[8][-1][1] == ladder(9, 12)[8][-1]


# ------------------------------------------------------------------------------------------------------------- PBT and PB2


@pytest.mark.parametrize("name", POPULATIONS)
@pytest.mark.parametrize("places", [1, 2, 6])
def test_bad_trials_take_over_good_ones(name, places):
    alone = SimulatedSearch(FIFOScheduler(), gain, configs(6), length=12, places=6).run()
    found = SimulatedSearch(build(name, perturbation_interval=3.0), gain, configs(6), length=12, places=places).run()
    worst_alone, best_alone = (pick(alone.curve(number)[-1] for number in range(6)) for pick in (min, max))
    ends = [found.curve(number)[-1] for number in range(6)]
    assert max(ends) >= best_alone
    assert min(ends) > worst_alone + 0.6 * (best_alone - worst_alone)
    assert set(found.epochs.values()) == {12}
    assert len(found.rows) == 6 * 12
    assert len({(row.trial, row.segment, row.epoch) for row in found.rows}) == len(found.rows)
    assert found.events


@pytest.mark.parametrize("name", POPULATIONS)
def test_an_exchange_depends_on_the_seed_and_not_on_the_order_of_arrival(name):
    def run(places, seed):
        return SimulatedSearch(build(name, seed=seed, perturbation_interval=3.0), gain, configs(4), length=12, places=places).run()

    state = np.random.get_state()[1].tolist()
    alike = [sorted(run(places, 7).rows, key=repr) for places in (1, 2, 6)]
    assert alike[0] == alike[1] == alike[2] != sorted(run(6, 8).rows, key=repr)
    assert np.random.get_state()[1].tolist() == state


@pytest.mark.parametrize("name", POPULATIONS)
def test_the_config_of_a_new_segment(name):
    found = SimulatedSearch(build(name, perturbation_interval=3.0), gain, configs(6), length=12, places=2).run()
    by_number = {trial.number: trial for trial in found.trials}
    assert sorted(by_number) == list(range(6))
    heirs = [trial for trial in found.trials if trial.config["segment"]]
    assert heirs
    for trial in heirs:
        assert set(trial.config) == {"trial", "segment", "parent", "optim.lr"}
        assert trial.config["parent"] != trial.number
        assert 1e-4 <= trial.config["optim.lr"] <= 1
        assert max(row.segment for row in found.rows if row.trial == trial.number) == trial.config["segment"]


@pytest.mark.parametrize("name", POPULATIONS)
def test_populations_meet_at_multiples_of_the_interval_after_the_burn_in(name):
    scheduler = build(name, 12, warmup_epochs=4.5, perturbation_interval=2.0)
    found = SimulatedSearch(scheduler, gain, configs(6), length=24, places=3, interval=0.5).run()
    epochs = {float(event.rpartition(" ")[2]) for event in found.events}
    assert epochs <= {6, 8, 10}
    assert 6 in epochs


def test_nothing_is_taken_over_from_equals():
    found = SimulatedSearch(build("PBT", perturbation_interval=2.0), lambda config: 1.0, configs(6), length=12, places=2).run()
    assert not found.events


def test_pbt_steps_within_the_space():
    space = {
        "lr": Float(1e-3, 1e-1, log=True),
        "steps": Float(0.0, 1.0, step=0.25),
        "count": Int(1, 10),
        "option": Choice(("a", "b", "c")),
        "sizes": Choice(((8, 8), (8,))),
    }
    scheduler = build("PBT", space=space, resample_probability=0.0)
    parent = SimpleNamespace(config={"lr": 0.09, "steps": 0.5, "count": 10, "option": "c", "sizes": [8, 8]})  # JSON records turn tuples into lists
    seen = [scheduler.explored(None, parent, np.random.default_rng(seed)) for seed in range(50)]
    assert {round(values["lr"], 6) for values in seen} == {0.072, 0.1}
    assert {values["steps"] for values in seen} == {0.5}
    assert {values["count"] for values in seen} == {8, 10}
    assert {values["option"] for values in seen} == {"b", "c"}
    assert {values["sizes"] for values in seen} == {(8, 8), (8,)}
    drawn = [build("PBT", space=space, resample_probability=1.0).explored(None, parent, np.random.default_rng(seed)) for seed in range(50)]
    assert {values["steps"] for values in drawn} == {0.0, 0.25, 0.5, 0.75, 1.0}
    assert {values["option"] for values in drawn} == {"a", "b", "c"}


def test_pb2_goes_where_the_gain_is():
    """Of four trials, the one with the highest rate gains the most in each of three stretches."""
    scheduler = build("PB2", seed=1, space={"optim.lr": Float(0.0, 1.0)})
    trials = [SimulatedTrial({"trial": number, "segment": 0, "optim.lr": rate}, str(number)) for number, rate in enumerate((0.1, 0.3, 0.5, 0.7))]
    for trial in trials:
        scheduler.on_trial_add(SimpleNamespace(search_alg=None), trial)
        for epoch in (3, 6, 9, 12):
            result = {"epoch": epoch, "score": epoch * trial.config["optim.lr"]}
            scheduler._save_trial_state(scheduler._trial_state[trial], epoch, result, trial)
    chosen = [scheduler.explored(trials[0], trials[3], np.random.default_rng(seed))["optim.lr"] for seed in range(3)]
    assert min(chosen) > 0.5
    assert scheduler._rows[-1] == {"Trial": "trial 0", "Time": 12, "optim.lr": chosen[-1], "Reward": pytest.approx(8.4)}


# -------------------------------------------------------------------------------------------------- the user's own schedulers


@pytest.mark.parametrize(
    "scheduler",
    [
        FIFOScheduler,
        lambda: ASHAScheduler(time_attr="epoch", max_t=12, grace_period=2),
        lambda: ASHAScheduler(max_t=12, metric="score", mode="max"),
        lambda: MedianStoppingRule(time_attr="epoch", grace_period=2, min_samples_required=2),
        lambda: HyperBandScheduler(time_attr="epoch", max_t=12),
    ],
    ids=["FIFO", "ASHA", "ASHA with a metric", "median", "HyperBand"],
)
@pytest.mark.parametrize("kill_after", [None, 7, 20])
def test_rays_own_schedulers_serve(scheduler, kill_after):
    def wrapped():
        given = scheduler()
        check_given_scheduler(given, "accuracy", "max")
        return build_scheduler(SimpleNamespace(scheduler=given, scheduler_init_args={}), SPACE, 12, 0.0, 0)

    curves = [curve[:length] for curve, length in zip(ladder(9, 12), (12, 12, 12, 3, 12, 12, 5, 12, 12), strict=True)]
    first = SimulatedSearch(wrapped(), curves, places=3, kill_after=kill_after).run()
    found = SimulatedSearch(wrapped(), curves, places=3, earlier=first).run() if kill_after else first
    assert len(found.finished) == 9
    assert found.epochs[8] == 12
    assert len({(row.trial, row.epoch) for row in found.rows}) == len(found.rows)


@pytest.mark.parametrize(
    ("scheduler", "words"),
    [
        (lambda: PopulationBasedTraining(metric="score", mode="max", hyperparam_mutations={"lr": [1, 2]}), "scheduler='PBT'"),
        (lambda: HyperBandForBOHB(metric="score", mode="max"), "scheduler='BOHB'"),
    ],
)
def test_those_that_cannot_serve_are_named_with_what_does(scheduler, words):
    with pytest.raises(NotSupported, match=words):
        check_given_scheduler(scheduler(), "accuracy", "max")


def test_a_scheduler_object_is_as_new_for_the_next_search():
    given = ASHAScheduler(time_attr="epoch", max_t=12, grace_period=2)
    settings, epochs = SimpleNamespace(scheduler=given, scheduler_init_args={}), []
    for curves in (ladder(9, 12)[::-1], ladder(9, 12)):  # the first trial of the first search is the best of both
        found = SimulatedSearch(build_scheduler(settings, SPACE, 12, 0.0, 0), curves, places=1).run()
        epochs.append(found.epochs)
    assert epochs[1][0] == 12  # the first trial has nothing to be compared with
    assert given.metric is None


def test_a_scheduler_that_looks_for_what_nobody_reports_is_refused():
    with pytest.raises(InvalidTuneSettings, match="metric='val_acc', and trials report best_score, score, accuracy"):
        check_given_scheduler(ASHAScheduler(metric="val_acc", mode="max"), "accuracy", "max")
    with pytest.raises(InvalidTuneSettings, match="time_attr='steps'"):
        check_given_scheduler(ASHAScheduler(time_attr="steps"), "accuracy", "max")
    check_given_scheduler(ASHAScheduler(metric="accuracy", mode="max"), "accuracy", "max")


@pytest.mark.parametrize(
    ("scheduler", "words"),
    [
        (lambda: ASHAScheduler(metric="log_loss", mode="max"), "has mode='max', but lower log_loss is better: 'min'"),
        (lambda: HyperBandScheduler(metric="score", mode="min"), "has mode='min', but higher score is better: 'max'"),
        (lambda: MedianStoppingRule(mode="min"), "has mode='min' and no metric; give it metric='log_loss' too, or neither"),
    ],
)
def test_a_scheduler_that_would_stop_the_best_is_refused(scheduler, words):
    with pytest.raises(InvalidTuneSettings, match=words):
        check_given_scheduler(scheduler(), "log_loss", "min")


@pytest.mark.parametrize("make", [ASHAScheduler, HyperBandScheduler, MedianStoppingRule])
def test_an_objectives_metric_may_be_called_score(make):
    """As in Ray's own examples, where a lower score may be better."""
    ends = {}
    for mode in ("max", "min"):
        given = make(time_attr="epoch", metric="score", mode=mode, **({"grace_period": 2} if make is MedianStoppingRule else {"max_t": 12}))
        check_given_scheduler(given, "score", mode)
        with pytest.raises(InvalidTuneSettings, match=r"(higher|lower) score is better"):
            check_given_scheduler(given, "score", "min" if mode == "max" else "max")
        plan = build_scheduler(SimpleNamespace(scheduler=given, scheduler_init_args={}), SPACE, 12, 0.0, 0)
        ends[mode] = SimulatedSearch(plan, ladder(9, 12)[::-1], places=3).run().epochs
    assert ends["max"] == ends["min"]
    assert ends["max"][0] == 12
    assert make is HyperBandScheduler or min(ends["max"].values()) < 12  # HyperBand's first bracket waits for more trials


@pytest.mark.parametrize("name", ["score", "epoch", "best_score"])
def test_an_objectives_metric_takes_no_name_that_schedulers_go_by(name):
    """If such a metric were to be minimised, policies and PBT would end the best trials."""
    reports, result = TrialReports(TrialTask(Path("search"), None), 0, name), EpochResult(2.0, 2, -0.5, 0.5, 1.0, 1.0, 0.1, 1.0)
    reports._note(result)
    report = reports._report(TrialStep(result, replayed=False, done=False), result)
    assert (report["score"], report["best_score"], report["epoch"]) == (-0.5, -0.5, 2.0)


# ----------------------------------------------------------------------------------------------------------- on Ray itself


RATES = (0.1, 1e-3, 0.03, 3e-4, 0.3, 1e-4, 0.05)  # the worst comes late, because asynchronous schedulers let early trials go on


def rows_of(folder):
    return [tuple(row) for number in range(len(RATES)) for row in read_rows(folder / str(number))]


# one that waits, one that exchanges, one policy; the others work alike, and test_objective.py searches with ASHA and FIFO
ON_RAY = ("HyperBand", "PBT", "median")


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in ON_RAY else pytest.mark.slow) for name in SCHEDULERS])
def test_on_ray(name, ray_session, tmp_path):
    """Seven trials in half epochs, two at a time; one ends by itself, one loses its process."""
    scheduler = build(name, 12, **({"perturbation_interval": 3.0} if name in POPULATIONS else {}))
    grid = run_toys(scheduler, RATES, tmp_path, interval=0.5, ends_at={2: 9}, dies_at={4: 3})
    assert (grid.num_errors, grid.num_terminated) == (0, 7), [str(error)[-600:] for error in grid.errors]  # none is left pending or paused
    rows = rows_of(tmp_path)
    assert len({row[:3] for row in rows}) == len(rows)
    epochs = {number: max(row[2] for row in rows if row[0] == number) for number in range(7)}
    assert epochs[0] == 12
    assert epochs[2] <= 4.5
    if name in STOPPING:
        assert epochs[5] < 12
    elif name in POPULATIONS:
        loads = [json.loads(line) for line in (tmp_path / "loads").read_text().splitlines()]
        taken_over = [(number, pointer) for number, pointer in loads if pointer["trial"] != number]
        assert taken_over
        for _, pointer in taken_over:
            assert pointer["position"] * 0.5 in (3, 6, 9)
        ends = [max(row[3] for row in rows if row[0] == number) for number in range(7) if number != 2]
        assert min(ends) > 0.6 * max(ends)  # 0.0001 without exchanges
        assert set(epochs.values()) == {4.5, 12}
    else:
        assert set(epochs.values()) == {4.5, 12}


@pytest.mark.slow  # the decisions are tested above, on simulated trials
@pytest.mark.parametrize("name", ["HyperBand", "PBT"])
def test_on_ray_resumed(name, ray_session, tmp_path):
    """Killed midway and resumed, trials that wait for each other reach the same end."""

    def scheduler():
        return build(name, 12, **({"perturbation_interval": 3.0} if name == "PBT" else {}))

    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    whole.mkdir()
    resumed.mkdir()
    run_toys(scheduler(), RATES, whole)
    run_toys(scheduler(), RATES, resumed, stop_after=11)
    assert 11 <= len(rows_of(resumed)) < len(rows_of(whole))
    run_toys(scheduler(), RATES, resumed)
    assert sorted(rows_of(resumed)) == sorted(rows_of(whole))
