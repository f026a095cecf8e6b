"""Texts: our defaults, and our word models alone, against TF-IDF with logistic regression.

    python benchmarks/text.py --data .data

SpamAssassin's e-mails without the 107 exact copies, subject and body as they are (tags, quotes, footers), spam or ham. 2,000 for training and 2,000
others for testing, drawn anew for every seed; all models get the same rows, and ours takes its validation rows from them. By default ours reads a text
twice: linear models of its words and characters score the whole text, and MiniLM (`automm_hpo.downloads`) reads 128 tokens from both its ends, while the
median e-mail has 385. "words alone" leaves MiniLM out, as `fit` does if transformers is not installed. TF-IDF reads the whole text: words and word pairs,
sublinear, without those that occur in one e-mail only, with the penalty chosen among five by cross-validation. "probe" is epoch 0 of ours, a linear model
of the untouched encoder's features and of the scores, by ROC AUC on the validation rows. Two epochs are what a slow core can do; the rest are our
defaults, except for smaller batches.
"""

from __future__ import annotations

import itertools
import os
import statistics
import tempfile
import time
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
import torch
from common import parser, print_machine
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline

from automm_hpo import MultiModalPredictor, downloads

LABEL, POSITIVE = "label", "spam"
STRENGTHS = [1, 10, 100, 1_000, 10_000]  # C of the logistic regression


def scores(test: pd.DataFrame, spam: np.ndarray) -> tuple[float, float]:
    """Returns accuracy and area under the ROC curve of spam probabilities, (N,)."""
    is_spam = test[LABEL].to_numpy() == POSITIVE
    return float(accuracy_score(is_spam, spam > 0.5)), float(roc_auc_score(is_spam, spam))


def baseline(train: pd.DataFrame, test: pd.DataFrame) -> tuple[float, float]:
    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2), LogisticRegression(max_iter=1_000))
    search = GridSearchCV(model, {"logisticregression__C": STRENGTHS}, cv=3)
    texts, unseen = (part["subject"] + "\n" + part["body"] for part in (train, test))
    search.fit(texts, train[LABEL])
    return scores(test, search.predict_proba(unseen)[:, list(search.classes_).index(POSITIVE)])


def ours(train: pd.DataFrame, test: pd.DataFrame, seed: int, hyperparameters: dict) -> tuple[tuple[float, float], float]:
    """Returns the scores on the test rows, and the ROC AUC of the first validation, which is the probe's if there is one."""
    predictor = MultiModalPredictor(LABEL, problem_type="binary", validation_metric="roc_auc", verbosity=0)
    predictor.fit(train, column_types={"subject": "text", "body": "text"}, seed=seed, tracking=None, hyperparameters=hyperparameters)
    probe = float(predictor.search.curves()["metric"].iloc[0])
    return scores(test, predictor.predict_proba(test.drop(columns=LABEL))[POSITIVE].to_numpy()), probe


def main() -> None:
    options = parser(__doc__, runs=3)
    options.add_argument("--data", type=Path, default=Path(".data"), help="where e-mails and encoder lie, or are fetched to")
    options.add_argument("--epochs", type=int, default=2)
    options.add_argument("--train", type=int, default=2_000, help="e-mails to train on")
    options.add_argument("--test", type=int, default=2_000, help="e-mails to test")
    options.add_argument("--max-text-len", type=int, default=128, help="tokens of an e-mail that the encoder reads")
    options.add_argument("--precision", default="bf16-mixed", help="1.6 times faster than 32 where the processor has AMX; slower where it has not")
    given = options.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print_machine()
    table = downloads.spam_emails(given.data).drop_duplicates(ignore_index=True)
    hyperparameters = {
        "model.hf_text.checkpoint_name": str(downloads.minilm(given.data)),
        "model.hf_text.max_text_len": given.max_text_len,
        "optim.max_epochs": given.epochs,
        "env.batch_size": 32,  # more steps, because there are only two epochs
        "env.precision": given.precision,
    }
    words_alone = {"model.names": ["real_mlp"]}
    found: dict[str, list[tuple[float, float]]] = {"TF-IDF, logistic regression": [], "ours": [], "ours, words alone": []}
    probes = []
    print(f"\n{given.train} e-mails to train on, {given.epochs} epochs, {given.max_text_len} tokens; accuracy and ROC AUC on {given.test} others\n")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for seed in range(given.runs):
            parts = train_test_split(table, train_size=given.train, test_size=given.test, random_state=seed, stratify=table[LABEL])
            train, test = (part.reset_index(drop=True) for part in parts)
            times = [time.perf_counter()]
            found["TF-IDF, logistic regression"].append(baseline(train, test))
            times.append(time.perf_counter())
            own, probe = ours(train, test, seed, hyperparameters)
            times.append(time.perf_counter())
            found["ours"].append(own)
            probes.append(probe)
            found["ours, words alone"].append(ours(train, test, seed, words_alone)[0])
            times.append(time.perf_counter())
            seconds = ", ".join(f"{after - before:.0f}" for before, after in itertools.pairwise(times))
            cells = ", ".join(f"{name} {values[-1][0]:.4f} {values[-1][1]:.4f}" for name, values in found.items())
            print(f"seed {seed}   {cells}; probe {probe:.4f}; {seconds} s", flush=True)
    print(f"\n{f'{given.runs} seeds':<30}{'accuracy':>10}{'min':>10}{'max':>10}{'ROC AUC':>10}{'min':>10}{'max':>10}")
    for name, values in found.items():
        columns = list(zip(*values, strict=True))
        print(f"{name:<30}" + "".join(f"{function(column):>10.4f}" for column in columns for function in (statistics.mean, min, max)))
    baseline_scores, *others = found.items()
    for name, values in others:
        gains = [[mine - theirs for mine, theirs in zip(*pair, strict=True)] for pair in zip(values, baseline_scores[1], strict=True)]
        for metric, own in zip(("accuracy", "ROC AUC"), zip(*gains, strict=True), strict=True):
            print(f"{name}, less TF-IDF, {metric}: {statistics.mean(own):+.4f}, seed by seed {', '.join(f'{gain:+.4f}' for gain in own)}; goal > 0")
    print(f"probe, ROC AUC on the validation rows: {statistics.mean(probes):.4f}")


if __name__ == "__main__":
    main()
