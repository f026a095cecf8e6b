"""A call that resumes a search: what it gives wins, and everything else stays as it was."""

from dataclasses import replace
from pathlib import Path

import pytest

from automm_hpo.errors import InvalidArgument
from automm_hpo.fit.call import FitCall

BEGAN = FitCall(save_path=Path("/runs/first"), resume=True, time_limit=60, seed=7, hyperparameters={"optim.lr": 0.1}, ensemble_size=3)


def test_what_is_given_wins_and_a_default_gives_nothing():
    again = BEGAN.changed_by(FitCall(save_path="/runs/first", time_limit=600, refit=True, tracking=None))
    expected = FitCall(
        save_path=BEGAN.save_path,
        resume=True,
        time_limit=600,
        seed=7,
        hyperparameters=BEGAN.hyperparameters,
        ensemble_size=3,
        refit=True,
        tracking=None,
    )
    assert again == expected
    assert BEGAN.changed_by(FitCall(save_path="/runs/first")) == BEGAN


@pytest.mark.parametrize("began", [{"searcher": "bayes", "scheduler": "ASHA", "num_keep": 2}, "bayes"])
def test_single_settings_of_the_search_win(began):
    given = FitCall(save_path="/runs/first", hyperparameter_tune_kwargs={"num_trials": 6})
    again = replace(BEGAN, hyperparameter_tune_kwargs=began).changed_by(given).hyperparameter_tune_kwargs
    assert again == {"searcher": "bayes", "scheduler": "ASHA", "num_trials": 6} | ({"num_keep": 2} if began != "bayes" else {})
    assert BEGAN.changed_by(given).hyperparameter_tune_kwargs == {"num_trials": 6}


@pytest.mark.parametrize("other", [FitCall(save_path="/runs/second"), FitCall(save_path="/runs/first", resume=False)])
def test_another_search_is_refused(other):
    with pytest.raises(InvalidArgument, match="/runs/first"):
        BEGAN.changed_by(other)


@pytest.mark.parametrize(
    ("arguments", "with_tuning_data", "without"),
    [({}, [], []), ({"holdout_frac": 0.2}, ["holdout_frac"], []), ({"max_num_tuning_data": 5}, [], ["max_num_tuning_data"])],
)
def test_what_validates_nothing_is_named(arguments, with_tuning_data, without):
    call = FitCall(**arguments)
    assert [list(call.without_effect(given)) for given in (True, False)] == [with_tuning_data, without]
