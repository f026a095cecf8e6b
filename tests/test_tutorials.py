"""The tutorials run as they stand, and README's example too."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "tutorials").glob("*.ipynb"))


def code_cells(notebook) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=500, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    accuracy = re.search(r"test accuracy: (0\.\d+)", printed)
    assert accuracy is not None
    assert float(accuracy[1]) > 0.75


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_has_outputs_and_equals_its_script(path):
    import jupytext

    notebook = nbformat.read(path, as_version=4)
    script = jupytext.read(path.with_suffix(".py"))
    assert code_cells(notebook) == code_cells(script)
    assert any(cell.get("outputs") for cell in notebook.cells)


def test_readmes_example_runs(fashion, here, ray_session):
    """As it stands but for the data, which is there already, and the size."""
    [example] = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    quick = {'fashion_mnist("fashion")': "DATA", '"num_trials": 8': '"num_trials": 2', 'image_size": 64': 'image_size": 32', "choice([4, 8])": "choice([1, 2])"}
    for written, replaced in quick.items():
        assert written in example
        example = example.replace(written, replaced)
    exec(example, {"DATA": (fashion[0].head(200), fashion[1].head(50))})
    assert (here / "runs" / "first" / "MANIFEST.json").exists()
