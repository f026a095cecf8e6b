"""Any searcher proposes each point of a finite space once, and hears the outcome of each of its proposals."""

from collections import Counter

import optuna
import pytest
from ray.tune.search import Searcher

from automm_hpo import space as spaces
from automm_hpo.hpo.once import NUM_ASKED, Once, build_proposer
from automm_hpo.hpo.result_keys import METRIC
from automm_hpo.hpo.searchers import SEARCHERS, OwnSearcher
from automm_hpo.hpo.settings import TuneSettings
from automm_hpo.space import Branch, Branches, draw_space, grid_point, grid_size, point_of

PLAIN = {"x": spaces.choice([1, 2, 3]), "y": spaces.randint(0, 3), "z": spaces.quniform(0, 1, 0.5)}
CONDITIONAL = {"way": Branches((Branch({"a": 1}, {"b": spaces.choice([1, 2])}), Branch({"a": 2}, {"c": spaces.randint(0, 4)})))}


class Stubborn(OwnSearcher):
    """Always makes the same proposal, and records the scores it is told."""

    def __init__(self, space, args=None, seed=0, first_points=()):
        super().__init__(space, args or {}, seed, list(first_points))
        self.told = []

    def _propose(self, trial_id, given):
        return grid_point(self.space, 0) if given is None else given

    def _tell(self, trial_id, score):
        self.told.append((trial_id, score))


def proposals(searcher, num_beside=2):
    """All proposals of a searcher, with ``num_beside`` trials at a time; every third trial fails."""
    found, running = [], []
    while (proposal := searcher.suggest(f"trial {len(found)}")) != Searcher.FINISHED:
        if proposal is not None:
            running.append(len(found))
            found.append(proposal)
        if len(running) == num_beside or proposal is None:
            ended = running.pop(0)
            searcher.on_trial_complete(f"trial {ended}", {METRIC: float(ended % 5)}, error=ended % 3 == 2)
    return found


BUT_SLOW = [pytest.param(name, marks=pytest.mark.slow) if name in ("ax", "bayesopt") else name for name in SEARCHERS]  # a proposal takes seconds


@pytest.mark.parametrize("name", BUT_SLOW)
def test_every_searcher_goes_through_all_points_and_ends(name):
    space = {"x": spaces.choice([1, 2, 3]), "y": spaces.randint(0, 2)}
    found = proposals(Once(SEARCHERS[name](space, {}, 0, [])))
    assert len(found) == len({point_of(space, proposal) for proposal in found}) == grid_size(space) == 6


@pytest.mark.parametrize("name", ["random", "grid", "bayes", "evolution"])
def test_the_points_of_all_branches(name):
    found = proposals(Once(SEARCHERS[name](CONDITIONAL, {}, 0, [])))
    assert len(found) == len({point_of(CONDITIONAL, proposal) for proposal in found}) == 6


RANGED = {
    "kind": Branches(
        (Branch({"kind": "svc"}, {"c": spaces.loguniform(1e-3, 1e3)}), Branch({"kind": "tree"}, {"depth": spaces.randint(1, 4)}), Branch({"kind": "none"}, {}))
    )
}


@pytest.mark.parametrize("searcher", ["random", "bayes", optuna.samplers.TPESampler(seed=0)], ids=["random", "bayes", "a sampler"])
def test_branches_with_few_points_beside_one_with_a_range(searcher):
    proposer, found = build_proposer(TuneSettings(searcher=searcher), RANGED, 0, []), []
    for trial in range(40):
        found.append(proposer.suggest(str(trial)))
        proposer.on_trial_complete(str(trial), {METRIC: float(found[-1]["kind"])})  # the branches without a range score best
    kinds = Counter(proposal["kind"] for proposal in found)
    assert kinds[0] == 40 - kinds[1] - kinds[2] and kinds[1] <= 3 and kinds[2] == 1
    assert len({point_of(RANGED, proposal) for proposal in found}) == 40


def test_a_space_too_large_to_go_through_is_never_over(monkeypatch):
    monkeypatch.setattr("automm_hpo.hpo.job.MOST_POINTS", 8)
    space = {"x": spaces.randint(0, 9)}
    proposer, found = Once(Stubborn(space)), []
    for trial in range(12):
        found.append(proposer.suggest(str(trial))["x"])
        proposer.on_trial_complete(str(trial), {METRIC: 1.0})
    assert len(set(found[:9])) == 9  # repeats follow, as nobody has counted the points
    assert len(proposer.inner.told) == 1 + 11 * NUM_ASKED + 11


def test_options_that_are_alike_are_one_point():
    space = {"x": spaces.choice([1, 1, 2])}
    assert len(proposals(Once(SEARCHERS["random"](space, {}, 0, [])))) == 2


def test_who_proposes_what_has_been_tried_is_told_its_score_and_given_another_point():
    searcher = Once(Stubborn(PLAIN))
    first = searcher.suggest("one")
    searcher.on_trial_complete("one", {METRIC: 0.7})
    second = searcher.suggest("two")
    assert point_of(PLAIN, second) != point_of(PLAIN, first)
    assert [score for _, score in searcher.inner.told] == [0.7] * (1 + NUM_ASKED)
    searcher.on_trial_complete("two", {METRIC: 0.1})
    assert searcher.inner.told[-1][1] == 0.1


def test_what_still_runs_is_answered_when_it_has_ended():
    searcher = Once(Stubborn(PLAIN))
    searcher.suggest("one")
    searcher.suggest("two")
    assert searcher.inner.told == []
    searcher.on_trial_complete("one", {METRIC: 0.7})
    assert [score for _, score in searcher.inner.told] == [0.7] * (1 + NUM_ASKED)
    assert len({name for name, _ in searcher.inner.told}) == 1 + NUM_ASKED


def test_a_trial_that_failed_counts_as_the_worst_and_is_not_tried_again():
    searcher = Once(Stubborn(PLAIN))
    searcher.suggest("one")
    searcher.on_trial_complete("one", error=True)
    assert searcher.inner.told == []
    searcher.suggest("two")
    searcher.on_trial_complete("two", {METRIC: 0.4})
    assert {score for _, score in searcher.inner.told} == {0.4}


@pytest.mark.parametrize("name", ["random", "qmc", "bayes", pytest.param("nevergrad", marks=pytest.mark.slow)])
def test_what_an_earlier_session_tried_is_not_tried_again(name):
    earlier = proposals(Once(SEARCHERS[name](PLAIN, {}, 0, [])))[:10]
    found = proposals(Once(SEARCHERS[name](PLAIN, {}, 0, earlier)))
    assert found[:10] == earlier
    assert len({point_of(PLAIN, proposal) for proposal in found}) == len(found) == 27


def test_points_that_the_user_gives_are_tried_as_given():
    given = [draw_space(PLAIN, 0, 1)] * 2  # the user asked for both trials
    assert proposals(Once(SEARCHERS["random"](PLAIN, {}, 0, given)))[:2] == given


def test_bohb_hears_of_the_rungs():
    searcher = Once(SEARCHERS["bohb"](PLAIN, {}, 0, []))
    searcher.suggest("one")
    searcher.on_trial_result("one", {METRIC: 0.5, "hyperband_info": {"budget": 2}})
    searcher.on_trial_complete("one", {METRIC: 0.5})


@pytest.mark.parametrize("name", BUT_SLOW)
def test_where_all_fail_it_goes_on_to_the_end(name):
    """Some searchers wait for a score before they propose more; here none comes."""
    searcher, found = Once(SEARCHERS[name](PLAIN, {}, 0, [])), []
    for number in range(grid_size(PLAIN)):
        proposal = searcher.suggest(str(number))
        assert isinstance(proposal, dict)
        found.append(point_of(PLAIN, proposal))
        searcher.on_trial_complete(str(number), error=True)
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("name", ["random", "qmc"])
def test_what_goes_by_the_number_of_a_trial_goes_on_in_a_finite_space(name):
    settings = TuneSettings(searcher=name, scheduler="FIFO")
    whole = proposals(build_proposer(settings, PLAIN, 0, []), num_beside=1)
    assert proposals(build_proposer(settings, PLAIN, 0, whole[:7], (), 7), num_beside=1) == whole
