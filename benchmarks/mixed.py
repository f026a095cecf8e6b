"""Images, names and numbers together: our fused model against each kind of column alone, and against TF-IDF with HistGradientBoosting.

    python benchmarks/mixed.py --data .data

1,906 emoji (the image, 64 px; its name, two or three words; four columns of facts) and the category to predict, one of nine: three quarters for
training and a quarter for testing, split anew for every seed. All models get the same rows; ours takes its validation rows from them. Images are
read by an EfficientNet-Lite0 with ImageNet weights, names by MiniLM, both downloaded by `automm_hpo.downloads`. Models that read images or names train for
`--epochs`, the table alone for as long as our defaults allow. The baseline gets the table and the name as 50 components of its TF-IDF (words and word
pairs; boosting on the words themselves is ten points worse, and slower). "probe" is epoch 0 of a training, the linear model that it starts from,
on the validation rows; the line `fused, probe` is that model as a predictor, on the test rows like the rest.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pandas as pd
import torch
from common import parser, print_machine
from sklearn.compose import make_column_transformer
from sklearn.decomposition import TruncatedSVD
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import accuracy_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline

from automm_hpo import MultiModalPredictor, downloads

LABEL, TABLE = "category", ["added_in", "has_short_text", "num_short_names", "num_code_points"]
WAYS = {"image alone": ["image"], "text alone": ["name"], "table alone": TABLE, "fused": ["image", "name", *TABLE]}


def baseline(train: pd.DataFrame, test: pd.DataFrame, seed: int) -> float:
    """Returns the accuracy of boosting on the name's TF-IDF and the table."""
    words = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2), TruncatedSVD(50, random_state=seed))
    model = make_pipeline(make_column_transformer((words, "name"), remainder="passthrough"), HistGradientBoostingClassifier(random_state=seed))
    columns = ["name", *TABLE]
    return float(accuracy_score(test[LABEL], model.fit(train[columns], train[LABEL]).predict(test[columns])))


def ours(columns: list[str], train: pd.DataFrame, test: pd.DataFrame, seed: int, hyperparameters: dict) -> tuple[float, float]:
    """Returns the accuracy on the test rows, and the probe's on the validation rows (NaN without a probe)."""
    predictor = MultiModalPredictor(LABEL, verbosity=0)
    texts = {"name": "text"} if "name" in columns else None  # two words are too few to be taken for a text
    predictor.fit(train[[*columns, LABEL]], column_types=texts, seed=seed, tracking=None, hyperparameters=hyperparameters)
    first = predictor.search.curves().iloc[0]
    probe = first["metric"] if first["epoch"] == 0 else float("nan")
    return float(accuracy_score(test[LABEL], predictor.predict(test[columns]))), float(probe)


def main() -> None:
    options = parser(__doc__, runs=3)
    options.add_argument("--data", type=Path, default=Path(".data"), help="where data and weights lie, or are fetched to")
    options.add_argument("--epochs", type=int, default=3, help="of the models that read pictures or names")
    given = options.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print_machine()
    table = downloads.emoji(given.data)
    table = table[table[LABEL] != "Component"]  # has only five rows
    backbones = {
        "model.timm_image.checkpoint_name": "tf_efficientnet_lite0",
        "model.timm_image.checkpoint_path": str(downloads.lite0_weights(given.data)),
        "model.timm_image.image_size": 64,
        "model.hf_text.checkpoint_name": str(downloads.minilm(given.data)),
    }
    ways = {name: (columns, backbones | ({} if name == "table alone" else {"optim.max_epochs": given.epochs})) for name, columns in WAYS.items()}
    ways["fused, probe"] = (WAYS["fused"], backbones | {"optim.max_steps": 1, "optim.lr": 1e-12, "optim.top_k_average_method": "best"})
    found: dict[str, list[float]] = {}
    probes: dict[str, list[float]] = {}
    seconds: dict[str, list[float]] = {}
    print(f"\n{len(table)} rows, {given.epochs} epochs; accuracy on a quarter of the rows\n")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for seed in range(given.runs):
            train, test = (part.reset_index(drop=True) for part in train_test_split(table, test_size=0.25, random_state=seed, stratify=table[LABEL]))
            found.setdefault("TF-IDF and table, boosting", []).append(baseline(train, test, seed))
            for name, (columns, hyperparameters) in ways.items():
                started = time.perf_counter()
                score, probe = ours(columns, train, test, seed, hyperparameters)
                found.setdefault(name, []).append(score)
                probes.setdefault(name, []).append(probe)
                seconds.setdefault(name, []).append(time.perf_counter() - started)
            print(f"seed {seed}   " + ", ".join(f"{name} {scores[-1]:.4f}" for name, scores in found.items()), flush=True)
    print(f"\n{f'{given.runs} seeds':<30}{'mean':>10}{'min':>10}{'max':>10}{'probe':>10}{'seconds':>10}")
    for name, scores in found.items():
        own = f"{statistics.mean(probes[name]):>10.4f}{statistics.mean(seconds[name]):>10.0f}" if name in probes else ""
        print(f"{name:<30}{statistics.mean(scores):>10.4f}{min(scores):>10.4f}{max(scores):>10.4f}{own}")
    rivals = [name for name in found if not name.startswith("fused")]
    best = max(rivals, key=lambda name: statistics.mean(found[name]))
    gains = [own - other for own, other in zip(found["fused"], found[best], strict=True)]
    print(f"\nfused less the best of the others ({best}) {statistics.mean(gains):+.4f}, seed by seed {', '.join(f'{gain:+.4f}' for gain in gains)}; goal > 0")


if __name__ == "__main__":
    main()
