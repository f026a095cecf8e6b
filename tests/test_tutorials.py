"""Runs the tutorials, and the examples of README and docs/."""

import re
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from nbclient import NotebookClient

from automm_hpo import MultiModalPredictor, downloads
from automm_hpo.errors import MissingData

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "tutorials").glob("*.ipynb"))
LEAST_ACCURACY = {
    "01_quickstart": 0.75,
    "03_your_own_objective": 0.95,
    "04_reading_a_search": 0.6,
    "05_limits_failures_resuming": 0.4,
    "06_mixed_tables": 0.7,
    "07_pretrained_backbones": 0.62,
}
DATA = ROOT / ".data"  # downloads, kept between runs
DOWNLOADS = {
    "06_mixed_tables": (downloads.emoji, downloads.lite0_weights, downloads.minilm),
    "07_pretrained_backbones": (lambda folder: downloads.cifar10(folder, 500, 500), downloads.lite0_weights),
}


def code_cells(notebook) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def python_blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


def made_quick(example: str, quick: dict[str, str]) -> str:
    for written, replaced in quick.items():
        assert written in example
        example = example.replace(written, replaced)
    return example


@pytest.mark.slow  # `make test` runs README's example, which is the first tutorial's, and those of docs/
@pytest.mark.timeout(600)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path):
    try:
        for fetch in DOWNLOADS.get(path.stem, ()):
            fetch(DATA)
            (tmp_path / ".data").exists() or (tmp_path / ".data").symlink_to(DATA)
    except MissingData as problem:
        pytest.skip(str(problem))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=500, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    if path.stem in LEAST_ACCURACY:
        accuracy = re.search(r"test accuracy: ([01]\.\d+)", printed)
        assert accuracy is not None
        assert float(accuracy[1]) > LEAST_ACCURACY[path.stem]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_has_outputs_and_equals_its_script(path):
    import jupytext

    notebook = nbformat.read(path, as_version=4)
    script = jupytext.read(path.with_suffix(".py"))
    assert code_cells(notebook) == code_cells(script)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert outputs
    assert not any(output.output_type == "error" or output.get("name") == "stderr" for output in outputs)


def test_every_tutorial_has_its_notebook():
    assert [path.stem for path in NOTEBOOKS] == sorted(path.stem for path in (ROOT / "tutorials").glob("*.py"))


def test_readmes_example_runs(fashion, here, ray_session):
    """Unchanged except for the data, which is already loaded, and the sizes."""
    example, _ = python_blocks(ROOT / "README.md")
    quick = {'fashion_mnist("fashion")': "DATA", '"num_trials": 8': '"num_trials": 2', 'image_size": 64': 'image_size": 32', "choice([4, 8])": "choice([1, 2])"}
    exec(made_quick(example, quick), {"DATA": (fashion[0].head(200), fashion[1].head(50))})
    assert (here / "runs" / "first" / "MANIFEST.json").exists()


def test_readmes_example_of_a_table_runs(here):
    """Unchanged except for the number of epochs."""
    _, example = python_blocks(ROOT / "README.md")
    rows = range(120)
    days = pd.date_range("2024-01-01", periods=len(rows)).strftime("%Y-%m-%d")
    houses = pd.DataFrame({"area": rows, "town": ["Utrecht", "Delft", "Gouda"] * 40, "sold": days, "price": [1000.0 * row + row % 3 for row in rows]})
    houses.to_csv("houses.csv", index=False)
    names = {"MultiModalPredictor": MultiModalPredictor}
    exec(made_quick(example, {'fit("houses.csv")': 'fit("houses.csv", hyperparameters={"optim.max_epochs": 3})'}), names)
    assert names["predictor"].column_types == {"area": "numerical", "town": "categorical", "sold": "datetime"}


def test_the_examples_of_columns_run(here):
    [example] = python_blocks(ROOT / "docs" / "columns.md")
    rows = range(60)
    names = {"train_data": pd.DataFrame({"zip": [row % 7 for row in rows], "area": rows, "price": [3.5 * row for row in rows]})}
    exec(example, names)
    assert names["predictor"].column_types == {"zip": "categorical", "area": "numerical"}


def test_the_examples_of_models_run(fashion, monkeypatch):
    """Downloads only return their folders, and random weights replace the pretrained ones."""
    weights, embeddings = python_blocks(ROOT / "docs" / "models.md")
    for name in ("lite0_weights", "minilm"):
        monkeypatch.setattr(downloads, name, lambda folder: Path(folder))
    exec(weights, {})
    backbone = {"model.timm_image.checkpoint_name": "test_resnet", "model.timm_image.pretrained": False, "model.timm_image.image_size": 32}
    exec(embeddings, {"MultiModalPredictor": MultiModalPredictor, "backbone": backbone, "data": fashion[0].head(5)})


AUTOMM, AUTOMM_TABLES, HYPERDRIVE, SCRIPT, RAY_TUNE, GUILD = range(6)


@pytest.mark.parametrize(
    ("block", "quick"),
    [
        pytest.param(
            AUTOMM,
            {
                '(label="label")': '(label="label", pretrained=False, hyperparameters={"model.timm_image.image_size": 32})',
                '"ghostnet_100", "mobilenetv3_large_100"': '"test_resnet", "test_vit"',
                '["10", "20"]': '["1", "2"]',
            },
            id="AutoMM",
            marks=pytest.mark.slow,
        ),
        pytest.param(HYPERDRIVE, {'"num_trials": 100': '"num_trials": 6'}, id="HyperDrive", marks=pytest.mark.slow),
        pytest.param(SCRIPT, {}, id="a script", marks=pytest.mark.slow),
        pytest.param(RAY_TUNE, {'"num_trials": 10': '"num_trials": 4'}, id="Ray Tune", marks=pytest.mark.slow),
        pytest.param(GUILD, {}, id="Guild", marks=pytest.mark.slow),
    ],
)
def test_an_example_of_coming_from_runs(block, quick, fashion, here, ray_session):
    """Unchanged except for the sizes."""
    blocks = python_blocks(ROOT / "docs" / "coming_from.md")
    assert len(blocks) == 6
    names = {"train_data": fashion[0].head(150)}
    exec(made_quick(blocks[block], quick), names)
    if block == AUTOMM:
        assert names["predictor_hpo"].leaderboard()["status"].isin(["COMPLETED", "STOPPED"]).all()
        return
    assert all(record.status in ("COMPLETED", "STOPPED") for record in names["search"].trials)
    assert names["search"].best is not None
    if block == GUILD:
        assert names["search"].best.tuned == {"lr": 0.3}


def test_automms_example_of_tables_with_text_runs(reader_folder, here):
    """Unchanged except for the text model."""
    example = python_blocks(ROOT / "docs" / "coming_from.md")[AUTOMM_TABLES]
    rows = range(60)
    reviews = pd.DataFrame({"summary": [f"very good bag {row}" for row in rows], "price": rows, "rating": [float(row % 5) for row in rows]})
    names = {"MultiModalPredictor": MultiModalPredictor, "reviews": reviews}
    exec(made_quick(example, {"google/electra-small-discriminator": reader_folder}), names)
    assert len(names["embeddings"]) == 60


@pytest.mark.parametrize("page", [ROOT / "README.md", *(ROOT / "docs").glob("*.md")], ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\((?!http)([^)#]+)", page.read_text())
    assert links
    assert all((page.parent / link).exists() for link in links)
