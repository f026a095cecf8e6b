"""The searcher between the searchers and Ray: what the inner one is told of trials that end."""

from types import SimpleNamespace

from ray.tune.search import Searcher

from automm_hpo.hpo.recording import RecordingSearcher


class Told(Searcher):
    def __init__(self):
        super().__init__(metric="best_score", mode="max")
        self.ends = {}

    def suggest(self, trial_id):
        return None

    def on_trial_complete(self, trial_id, result=None, error=False):
        self.ends[trial_id] = "error" if error else result["best_score"]


def test_a_trial_that_is_ended_while_it_is_paused_counts_with_its_last_score():
    """Ray completes such a trial without a result; HyperBand ends most of its trials so."""
    inner = Told()
    searcher = RecordingSearcher(inner, SimpleNamespace(settings=SimpleNamespace(scheduler="HyperBand")), SimpleNamespace(records=[]), None)
    searcher.on_trial_result("paused", {"best_score": 0.25})
    searcher.on_trial_result("paused", {"best_score": 0.5})
    searcher.on_trial_complete("paused")
    searcher.on_trial_result("whole", {"best_score": 0.25})
    searcher.on_trial_complete("whole", {"best_score": 0.75})
    searcher.on_trial_result("failed", {"best_score": 0.25})
    searcher.on_trial_complete("failed", error=True)
    searcher.on_trial_complete("unheard")
    assert inner.ends == {"paused": 0.5, "whole": 0.75, "failed": "error", "unheard": "error"}
    assert not searcher.last
