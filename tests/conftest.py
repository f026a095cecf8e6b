"""Fixtures that build the records of searches without training anything."""

import math
import random

import pytest
from model_fixtures import encoder_folder, features, make_batch, make_config  # noqa: F401  # fixtures of tests/models and tests/training

from automm_hpo.config import Config
from automm_hpo.hpo.records import COMPLETED, DIVERGED, FAILED, RUNNING, STOPPED, SearchRecords, TrialRecord
from automm_hpo.metrics import find_metric
from automm_hpo.training.result import EpochResult


def _curve(metric, values, **fields):
    """One result per epoch; nan stands for an epoch that diverged."""
    return tuple(
        EpochResult(float(epoch), 4 * epoch, metric.score(value), value, 1.0, 1.0, 0.1, 0.5 * epoch, None if math.isfinite(value) else "diverged", **fields)
        for epoch, value in enumerate(values, 1)
    )


@pytest.fixture
def curve():
    """(metric, values) -> results."""
    return _curve


@pytest.fixture
def nasty() -> str:
    """A text with markup, a formula, a terminal escape sequence and a line break."""
    return "<script>alert(1)</script> $x^ \x1b[31m\n& 'quoted' [bold]"


@pytest.fixture
def make_trials():
    """(count, metric name, number of tuned hyperparameters) -> trials of every status, better the closer lr is to 0.01."""

    def make(count, metric_name="accuracy", num_tuned=3):
        metric, rng = find_metric(metric_name), random.Random(0)
        trials = []
        for number in range(count):
            lr = 10 ** rng.uniform(-5, 1)
            tuned = {"optim.lr": lr, "optim.optim_type": rng.choice(["adamw", "sgd"]), "env.batch_size": rng.choice([16, 32, 64])}
            tuned |= {f"optim.some_long_name_{index}": rng.uniform(0, 1) for index in range(num_tuned - 3)}
            good = math.exp(-0.5 * (math.log10(lr) + 2) ** 2)
            status = FAILED if lr > 5 else DIVERGED if lr > 2 else COMPLETED if good > 0.3 else STOPPED
            epochs = range(1, 10 if status == COMPLETED else 4)
            values = [good * epoch / (epoch + 1) if metric.higher_is_better else 2.3 / (good + 1e-3) / epoch for epoch in epochs]
            values = {FAILED: [], DIVERGED: [values[0], math.nan]}.get(status, values)
            trials.append(TrialRecord(number, tuned, tuned, status, "", 1e9 + 3 * number, results=_curve(metric, values)))
        return trials

    return make


@pytest.fixture
def store():
    """(folder, trials) -> SearchRecords of the trials, written to the folder."""

    def write(folder, trials):
        records = SearchRecords(folder)
        for trial in trials:
            number = records.open_trial({}, trial.tuned, Config().flat()).number
            for result in trial.results:
                records.folder_of(number).append(result)
            if trial.status == FAILED:
                records.folder_of(number).write_error("Traceback (most recent call last):\nValueError: too much")
            if trial.status != RUNNING:
                records.close_trial(number, trial.status, trial.reason)
        return records

    return write


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "bag", "boot", "is", "good", "bad", "red", "blue", "trouser", "the", "this", "very", ":", "title", "body"]


@pytest.fixture(scope="session")
def reader_folder(encoder_folder, tmp_path_factory):  # noqa: F811  # the imported fixture
    """Folder of a small random text encoder and a tokenizer that knows a few words."""
    import shutil

    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("reader") / "encoder"
    shutil.copytree(encoder_folder, folder)
    tokenizer = Tokenizer(models.WordLevel({word: code for code, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=40).save_pretrained(folder)
    return str(folder)
