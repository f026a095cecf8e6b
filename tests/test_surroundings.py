"""A fit works whatever the surrounding program has set, and whatever its tables look like."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from ray import tune

from automm_hpo import MultiModalPredictor, tune_objective
from automm_hpo.errors import InvalidArgument

QUICK = {"optim.max_epochs": 1, "env.batch_size": 32}


def table(rows=60):
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=rows), rng.normal(size=rows)
    town = rng.choice(["Utrecht", "Gent"], rows)
    return pd.DataFrame({"first": first, "second": second, "town": town, "price": 3 * first + second + 0.5 * (town == "Gent")})


def fit(data, label="price", hyperparameters=QUICK, predictor=None, **options):
    predictor = predictor or MultiModalPredictor(label, verbosity=0)
    return predictor.fit(data, hyperparameters=hyperparameters, tracking=None, **options)


@pytest.fixture(scope="module")
def pictures(small, tmp_path_factory):
    """A fitted classifier of image files."""
    model = {f"model.timm_image.{key}": value for key, value in {"checkpoint_name": "test_resnet", "pretrained": False, "image_size": 32}.items()}
    return fit(small[0].head(60), "label", model | QUICK, save_path=tmp_path_factory.mktemp("pictures") / "run")


class FloatsAreDoubles:
    def __enter__(self):
        torch.set_default_dtype(torch.float64)

    def __exit__(self, *raised):
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    "around", [FloatsAreDoubles, torch.no_grad, torch.inference_mode, lambda: torch.device("meta")], ids=["double", "grad", "inference", "device"]
)
def test_what_the_program_has_set_of_torch(here, pictures, small, around):
    expected = pictures.predict_proba(small[1].head(9))
    with around():
        before = torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled()
        assert fit(table(), save_path="run").predict(table().head(3)).notna().all()
        assert MultiModalPredictor.load(pictures.path, verbosity=0).predict_proba(small[1].head(9)).equals(expected)
        assert pictures.extract_embedding(small[1].head(2)).dtype == np.float32
        assert (torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled()) == before


def test_pictures_as_files_bytes_base64_and_arrays_are_the_same_ones(pictures, small):
    import base64

    from PIL import Image

    files = small[1]["image"].head(3)
    expected = pictures.predict_proba(files.to_frame())
    contents = [Path(file).read_bytes() for file in files]
    for given in (
        contents,
        [Image.open(file) for file in files],
        [np.asarray(Image.open(file)) for file in files],
        [f"data:image/png;base64,{base64.b64encode(content).decode()}" for content in contents],
    ):
        frame = pd.DataFrame({"image": pd.Series(given, dtype=object, index=files.index)})
        assert pictures.predict_proba(frame).equals(expected)


@pytest.mark.parametrize("searched", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_columns_named_by_numpys_numbers(here, ray_session, searched):
    data = table().drop(columns="town").set_axis([2019, 2020, 2021], axis=1)
    lr = {"optim.lr": tune.loguniform(1e-3, 1e-2)} if searched else {}
    settings = {"searcher": "random", "scheduler": "FIFO", "num_trials": 2} if searched else None
    predictor = fit(data, np.int64(2021), QUICK | lr, save_path="run", hyperparameter_tune_kwargs=settings)
    assert MultiModalPredictor.load("run", verbosity=0).predict(data).equals(predictor.predict(data))


@pytest.mark.skipif(pd.__version__ < "3", reason="pandas 2 counts nanoseconds, of which there are enough until 2262")
def test_dates_that_mean_for_ever(here):
    when = pd.Series([*(f"2020-{month:02}-{day:02}" for month in (1, 2) for day in range(1, 29)), *["9999-12-31", "1600-02-01"] * 2])
    predictor = fit(table().assign(until=when), save_path="run")
    assert predictor.column_types["until"] == "datetime"
    assert predictor.predict({"first": 1.0, "second": 1.0, "town": "Gent", "until": "9999-12-31"}).notna().all()


def test_a_row_as_a_request_has_it(here):
    predictor = fit(table(), save_path="run")
    row = {"first": 1.0, "second": 0.5, "town": "Gent"}
    [expected] = predictor.predict(row)
    assert predictor.predict({**row, "tags": ["x", "y", "z"], "user": {"ip": "10.0.0.1"}, "none": []}).tolist() == [expected]
    assert predictor.predict([row, {**row, "tags": ["x"]}]).tolist() == pytest.approx([expected] * 2)
    assert len(predictor.predict([])) == 0
    assert predictor.predict(pd.DataFrame([[1.0, 0.5, "Gent", 1, 2]], columns=["first", "second", "town", "more", "more"])).tolist() == [expected]


def test_another_fit_of_a_loaded_predictor_is_of_the_same_problem(here):
    data = table().assign(price=lambda frame: frame["price"].round().astype(int), zip=[1, 2, 3] * 20, weight=1.0)
    first = MultiModalPredictor("price", problem_type="regression", eval_metric="mae", sample_weight="weight", verbosity=0)
    fit(data, predictor=first, column_types={"zip": "categorical"}, save_path="run")
    again = fit(data, predictor=MultiModalPredictor.load("run", verbosity=0), save_path="again")
    for name in ("problem_type", "eval_metric", "validation_metric", "column_types"):
        assert getattr(again, name) == getattr(first, name)
    assert "weight" not in again.column_types


def test_another_fit_is_not_by_another_metric(here):
    from sklearn.metrics import make_scorer, median_absolute_error

    scorer = make_scorer(median_absolute_error, greater_is_better=False)
    fit(table(), predictor=MultiModalPredictor("price", eval_metric=scorer, verbosity=0), save_path="run")
    with pytest.raises(InvalidArgument, match=r"eval_metric: expected one of .*median_absolute_error"):
        fit(table(), predictor=MultiModalPredictor.load("run", verbosity=0), save_path="again")
    assert not os.path.exists("again")


def test_notes_on_what_is_predicted_end(here, capsys):
    predictor = fit(table(), save_path="run")
    predictor.set_verbosity(2)
    for number in range(50):
        predictor.predict({"first": 1.0, "second": 1.0, "town": f"town {number}"})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 21
    assert lines[-1] == "further notes on what is predicted are left out"


def test_a_name_that_no_folder_can_have(here):
    with pytest.raises(InvalidArgument, match="save_path: a name of 300 characters is too long"):
        fit(table(), save_path="x" * 300)


def test_an_objective_that_cannot_be_sent_is_refused_before_ray_is_started(here, monkeypatch):
    import threading

    monkeypatch.setattr("automm_hpo.hpo.cluster._start", None)

    lock = threading.Lock()

    def objective(config):
        with lock:
            return config["x"]

    with pytest.raises(InvalidArgument, match=r"objective: it cannot be pickled for the trials' processes .*lock"):
        tune_objective(objective, {"x": tune.uniform(0, 1)}, mode="max", save_path="run", tracking=None, verbosity=0)
    assert not os.path.exists("run")


SERVICE = """
import signal
from ray import tune
from automm_hpo import tune_objective

signal.signal(signal.SIGUSR1, handler := lambda *_: None)
for name in ("first", "second"):
    tune_objective(lambda config: config["x"], {"x": tune.uniform(0, 1)}, {"num_trials": 2}, mode="max", save_path=name, tracking=None)
assert signal.getsignal(signal.SIGUSR1) is handler
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGUSR1") or not os.path.exists("/dev/full"), reason="of Linux")
def test_a_service_without_a_home_whose_output_nobody_can_take(here):
    environment = os.environ | {"HOME": "/proc/nowhere", "PYTHONUNBUFFERED": "1"}
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", SERVICE], env=environment, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120, cwd=here)
    assert done.returncode == 0, done.stderr


THREADS = """
import os
from automm_hpo import MultiModalPredictor
assert "GOMP_SPINCOUNT" not in os.environ or os.environ["GOMP_SPINCOUNT"] == "7"
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of GNU OpenMP")
@pytest.mark.parametrize(("own", "expected"), [({}, "2000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "PASSIVE"}, "0")])
def test_threads_do_not_wait_in_vain_on_a_busy_machine(own, expected):
    """As OpenMP itself says, which reads the environment when torch is imported. Afterwards the environment is the user's again."""
    environment = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")}
    environment |= {"OMP_DISPLAY_ENV": "VERBOSE", **own}
    done = subprocess.run([sys.executable, "-c", THREADS], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert f"GOMP_SPINCOUNT = '{expected}'" in done.stderr
