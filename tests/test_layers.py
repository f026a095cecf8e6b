"""The architecture: a file imports only lower layers or its own folder, and few places may import each heavy library."""

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from automm_hpo import MultiModalPredictor

PACKAGE = Path(__file__).parent.parent / "automm_hpo"
LAYERS = [
    ["errors"],
    ["files", "process", "hub"],
    ["rng", "code"],
    ["sections"],
    ["automm"],
    ["config", "space", "problem", "metrics", "tracking"],
    ["presets", "datasets", "downloads"],
    ["data"],
    ["models"],
    ["training"],
    ["hpo"],
    ["artifact", "plots", "arguments"],
    ["results"],
    ["session"],
    ["fit", "objective"],
    ["predictor"],
]
FIT = [  # the same for fit/, whose files are layers too
    ["start"],
    ["plan"],
    ["data_plan", "checks", "capacity"],
    ["search_plan"],
    ["finishing", "timing", "venue"],
    ["place", "preview", "resolution", "packing"],
    ["call"],
    ["run"],
]
DOORS = {  # library -> the places that may import it
    "ray": ("hpo/",),
    "mlflow": ("tracking.py",),
    "timm": ("models/", "training/", "downloads.py"),
    "optuna": ("hpo/",),
    "peft": ("models/peft.py",),
    "transformers": ("data/text.py", "models/text.py"),
    "tokenizers": ("data/text.py",),
    "matplotlib": ("plots.py", "results.py"),
    "rich": ("hpo/display.py", "hpo/table.py"),
    "pandas": (
        "data/",
        "hpo/records.py",
        "hpo/importance.py",
        "problem.py",
        "datasets.py",
        "downloads.py",
        "fit/plan.py",
        "fit/start.py",
        "fit/data_plan.py",
        "fit/call.py",
        "results.py",
        "fit/preview.py",
        "predictor.py",
    ),
    "torch": (
        "rng.py",
        "downloads.py",
        "data/",
        "models/",
        "training/",
        "hpo/",
        "artifact.py",
        "fit/finishing.py",
        "fit/packing.py",
        "predictor.py",
        "fit/resolution.py",
        "fit/timing.py",
    ),
}
FORBIDDEN = {"pickle", "joblib", "dill", "cloudpickle"}
FILES = sorted(PACKAGE.rglob("*.py"))


def layer_of(parts: tuple[str, ...], layers: list[list[str]] = LAYERS) -> int:
    return next(level for level, names in enumerate(layers) if parts[0] in names)


def imports(path: Path):
    """Yields (absolute module parts, whether ours) for every import in a file."""
    here = path.relative_to(PACKAGE).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield tuple(alias.name.split(".")), False
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield tuple((node.module or "").split(".")), False
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level]
            module = base + tuple((node.module or "").split(".")) if node.module else base
            if module:
                yield module, True
            else:  # from . import x, y
                for alias in node.names:
                    if (PACKAGE / alias.name).is_dir() or (PACKAGE / f"{alias.name}.py").exists():
                        yield (alias.name,), True


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_import_reaches_up(path):
    relative = path.relative_to(PACKAGE)
    if relative.name == "__init__.py" and len(relative.parts) == 1:
        return  # the package's own __init__ exports the predictor
    own = relative.with_suffix("").parts
    for module, ours in imports(path):
        if ours:
            same_folder, message = len(own) > 1 and module[0] == own[0], f"{relative} imports {'.'.join(module)}"
            assert same_folder or layer_of(module) < layer_of(own), message
            assert not (same_folder and own[0] == "fit") or layer_of(module[1:], FIT) < layer_of(own[1:], FIT), message


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_heavy_libraries_enter_by_their_doors(path):
    relative = path.relative_to(PACKAGE).as_posix()
    for module, ours in imports(path):
        if not ours:
            assert module[0] not in FORBIDDEN, f"{relative} imports {module[0]}"
            assert module[0] not in DOORS or relative.startswith(DOORS[module[0]]), f"{relative} imports {module[0]}"


def test_import_is_quick_and_light():
    code = "import sys, automm_hpo; print([name for name in ('torch', 'ray', 'timm', 'mlflow', 'pandas') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_an_objectives_worker_loads_no_torch():
    """So that it starts in one second instead of six; the objective imports what it needs."""
    code = "import sys, automm_hpo.objective, automm_hpo.hpo.trainable; print([name for name in ('torch', 'timm', 'mlflow', 'optuna') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_a_predictor_is_the_same_in_a_new_process_and_a_fit_without_a_space_needs_no_ray(small, here, fast):
    """In a process of its own, because this one has already loaded Ray."""
    small[0].head(60).to_csv(here / "train.csv", index=False)
    small[1].to_csv(here / "test.csv", index=False)
    hyperparameters = fast | {"optim.max_epochs": 1}
    predictor = MultiModalPredictor("label", verbosity=0).fit("train.csv", hyperparameters=hyperparameters, save_path="run", tracking=None)
    predictor.save(here / "elsewhere")
    code = (
        "import sys; from automm_hpo import MultiModalPredictor as P; "
        "p = P.load('elsewhere'); p.predict_proba('test.csv').to_csv('out.csv', index=False); print(len(p.leaderboard())); "
        f"P(label='label', verbosity=0).fit('train.csv', hyperparameters={hyperparameters!r}, tracking=None); "
        "print('ray' in sys.modules, 'mlflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "False", "False"]
    assert np.allclose(pd.read_csv(here / "out.csv"), predictor.predict_proba(small[1]), atol=1e-6)
