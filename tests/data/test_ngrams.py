"""What the words of a text tell about the target; training rows are scored by models that have not seen them."""

import json

import numpy as np
import pandas as pd
import pytest

from automm_hpo.data import ngrams
from automm_hpo.data.ngrams import NgramScorer, fit_ngrams, score_names
from automm_hpo.problem import infer_problem

WORDS = {"ham": "meeting notes report monday", "spam": "winner prize cash free", "list": "unsubscribe footer digest archive"}


def mails(num_rows, seed=0, labels=("ham", "spam")):
    """Each mail has one telling word among many meaningless ones."""
    rng = np.random.default_rng(seed)
    label = rng.choice(labels, num_rows)
    noise = [" ".join(f"w{number}" for number in rng.integers(0, 300, 12)) for _ in range(num_rows)]
    return pd.DataFrame({"body": [f"{few} {rng.choice(WORDS[each].split())}!" for few, each in zip(noise, label, strict=True)], "label": label})


def fitted(table, columns=("body",), weight=None):
    problem = infer_problem(table["label"], "label")
    return fit_ngrams(table, columns, problem.encode(table["label"]), weight, problem, 0)


@pytest.fixture(scope="module")
def scorer():
    return fitted(mails(300))


def test_words_that_tell_are_found_and_later_rows_scored_by_them(scorer):
    later = mails(200, seed=1)
    scores = scorer.transform(later)
    assert scores.shape == (200, 1)
    assert scores.dtype == np.float32
    assert ((scores[:, 0] > 0) == (later["label"] == "spam")).mean() > 0.97


@pytest.fixture(scope="module")
def nothing_to_learn():
    """A table with random labels, and its scorer."""
    table = mails(300).assign(label=np.random.default_rng(5).choice(["ham", "spam"], 300))
    return table, fitted(table)


def test_a_training_row_is_scored_by_a_model_that_has_not_seen_it(nothing_to_learn):
    table, scorer = nothing_to_learn
    is_spam = (table["label"] == "spam").to_numpy()
    honest, flattered = (scorer.transform(table, held_out)[:, 0] for held_out in (True, False))
    assert abs(np.corrcoef(honest, is_spam)[0, 1]) < 0.2
    assert np.corrcoef(flattered, is_spam)[0, 1] > 0.7
    assert honest.mean() == pytest.approx(0, abs=1e-4)
    assert honest.std() == pytest.approx(1, abs=1e-3)


def test_copies_of_a_text_share_a_fold():
    table = pd.concat([mails(150).assign(label=np.random.default_rng(5).choice(["ham", "spam"], 150))] * 3, ignore_index=True)
    honest = fitted(table).transform(table, held_out=True)[:, 0]
    assert abs(np.corrcoef(honest, table["label"] == "spam")[0, 1]) < 0.25


@pytest.mark.parametrize("held_out", [True, False])
def test_row_i_depends_on_row_i_only(held_out, monkeypatch):
    table = mails(60)
    scorer = fitted(table)
    whole = scorer.transform(table, held_out)
    assert np.allclose(scorer.transform(table.iloc[[7, 3]], held_out), whole[[7, 3]], atol=1e-5)
    monkeypatch.setattr(ngrams, "ROWS_A_CALL", 7)
    assert np.allclose(scorer.transform(table, held_out), whole, atol=1e-5)
    assert scorer.transform(table.head(0), held_out).shape == (0, 1)


def test_json_round_trip_gives_the_same_scores_to_the_bit(scorer):
    later = mails(50, seed=1)
    read = NgramScorer.from_json(json.loads(json.dumps(scorer.to_json())))
    assert read == scorer
    assert (read.transform(later) == scorer.transform(later)).all()


def test_whoever_goes_on_with_a_stored_one_sees_its_rows_by_models_that_have_not(nothing_to_learn):
    table, scorer = nothing_to_learn
    read = NgramScorer.from_json(json.loads(json.dumps(scorer.to_json())))
    assert read.transform(table, held_out=True) == pytest.approx(scorer.transform(table, held_out=True), abs=0.01)
    assert abs(np.corrcoef(read.transform(table, held_out=True)[:, 0], table["label"] == "spam")[0, 1]) < 0.2


def test_a_score_for_each_of_several_classes_though_a_fold_may_lack_one():
    table = mails(300, labels=("ham", "spam", "list"))
    table.loc[0, "label"] = "only one such"
    scorer, later = fitted(table), mails(200, seed=1, labels=("ham", "spam", "list"))
    assert scorer.names == ("words: ham", "words: list", "words: only one such", "words: spam")
    best = np.array([name.removeprefix("words: ") for name in scorer.names])[scorer.transform(later).argmax(1)]
    assert (best == later["label"]).mean() > 0.95
    assert np.isfinite(scorer.transform(table, held_out=True)).all()


def test_numbers_too():
    table = mails(300).assign(label=lambda rows: rows["body"].str.contains("prize|cash") * 3.0 + np.random.default_rng(0).normal(0, 0.1, len(rows)))
    problem = infer_problem(table["label"], "label", "regression")
    scorer = fit_ngrams(table, ["body"], problem.encode(table["label"]), None, problem, 0)
    assert score_names(problem) == scorer.names == ("words: label",)
    assert np.corrcoef(scorer.transform(table, held_out=True)[:, 0], table["label"])[0, 1] > 0.9


def test_a_word_means_in_each_column_what_it_means_there():
    table = mails(400)
    table = pd.DataFrame({"subject": table["body"], "body": mails(400, seed=2)["body"], "label": table["label"]})  # the body is unrelated to the label
    scorer = fitted(table, ("subject", "body"))
    swapped = table.rename(columns={"subject": "body", "body": "subject"})
    right, wrong = (((scorer.transform(rows)[:, 0] > 0) == (table["label"] == "spam")).mean() for rows in (table, swapped))
    assert right > 0.95
    assert wrong < 0.65


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA, ""])
def test_a_missing_text_says_nothing(scorer, missing):
    table = pd.DataFrame({"body": pd.Series([missing, "free prize"], dtype=object)})
    scores = scorer.transform(table)[:, 0]
    assert scores[0] == pytest.approx(scorer.bias[0])
    assert scores[1] > 1


def test_texts_without_anything_in_common_say_nothing():
    table = pd.DataFrame({"body": [chr(0x4E00 + number) for number in range(20)], "label": ["ham", "spam"] * 10})
    scorer = fitted(table)
    assert scorer.weight.shape == (0, 1)
    assert np.isfinite(scorer.transform(table, held_out=True)).all()


def test_rows_count_by_their_weight():
    table = mails(200)
    table = pd.concat([table, table.assign(label=table["label"].map({"ham": "spam", "spam": "ham"}))], ignore_index=True)
    weight = np.repeat([1.0, 0.0], 200)
    scores = fitted(table, weight=weight).transform(mails(100, seed=1))[:, 0]
    assert ((scores > 0) == (mails(100, seed=1)["label"] == "spam")).mean() > 0.95


@pytest.mark.parametrize("labels", [("ham", "spam"), ("ham", "spam", "list"), (1.5, 2.5, 3.5)])
def test_most_rows_may_weigh_nothing(labels):
    """All rows with a weight may be in one fold."""
    table = mails(60).assign(label=[labels[row % len(labels)] for row in range(60)])
    assert np.isfinite(fitted(table, weight=np.eye(60)[5]).transform(table, held_out=True)).all()


def test_of_very_much_text_or_in_little_time_some_rows_are_learned_from(monkeypatch):
    table, later, sizes = mails(1_000), mails(100, seed=1), []
    problem = infer_problem(table["label"], "label")
    for time_limit, most in ((None, 10_000_000), (None, 10_000), (1_000.0, 10_000), (0.15, 10_000)):
        monkeypatch.setattr(ngrams, "MOST_CHARACTERS", most)
        scorer = fit_ngrams(table, ["body"], problem.encode(table["label"]), None, problem, 0, time_limit)
        sizes.append(len(scorer.buckets))
        assert ((scorer.transform(later)[:, 0] > 0) == (later["label"] == "spam")).mean() > 0.8
    assert sizes[0] > sizes[1] == sizes[2] > 1.1 * sizes[3]


def test_of_a_very_long_text_both_ends_are_read(scorer):
    ends = {"short": "free", "first": "free" + " w1" * 50_000, "last": "w1 " * 50_000 + "free", "middle": "w1 " * 50_000 + "free" + " w1" * 50_000}
    short, first, last, middle = scorer.transform(pd.DataFrame({"body": list(ends.values())}))[:, 0]
    assert short > first > middle
    assert last > middle


def test_the_same_rows_give_the_same_scorer_to_the_bit(scorer):
    """A resumed search fits the scorer again, and must get the values that its cache holds."""
    second = fitted(mails(300))
    assert all(np.array_equal(getattr(scorer, name), getattr(second, name)) for name in ("buckets", "weight", "bias", "fold_weight", "fold_bias"))
