"""Each example runs, at a small size, in its own folder."""

import shutil

import nbformat
import pytest
from nbclient import NotebookClient

from tests.helpers.typed_command import type_command


def run(repository, folder, script, *arguments):
    done = type_command([str(repository / "examples" / script), *arguments], folder=folder, seconds=300)
    assert done.status == 0, done.errors
    return done.out


@pytest.mark.slow
def test_train_on_two_parquet_files(repository, tmp_path):
    said = run(repository, tmp_path, "train_on_two_parquet_files.py", "--made", "8000")
    auc = float(said.partition("test AUC ")[2].split()[0])
    assert auc > 0.7  # users click what they clicked before: about 0.8 can be reached
    files = ["--samples", "two_files/raw/samples.parquet", "--items", "two_files/raw/items.parquet", "--out", "again"]
    assert f"test AUC {auc:.4f}" in run(repository, tmp_path, "train_on_two_parquet_files.py", *files)


def test_titles_to_vectors(repository, tmp_path):
    said = run(repository, tmp_path, "titles_to_vectors.py")
    assert "6 vectors of 4 numbers" in said
    assert "nearest to 'red running shoes': ['blue running shoes'" in said


@pytest.mark.slow
def test_compare_two_models(repository, tmp_path):
    shutil.copytree(repository / "config", tmp_path / "config")
    # Most of the time is for scoring the demo's valid and test samples.
    datasets = tmp_path / "config/dataset_config/synthetic.yaml"
    text = datasets.read_text()
    small = text.replace("valid_rows: 20000, test_rows: 40000", "valid_rows: 1000, test_rows: 1000")
    assert small != text
    datasets.write_text(small)
    said = run(repository, tmp_path, "compare_two_models.py", "--samples", "2048", "--seeds", "1", "2")
    assert "QIN_demo@synthetic.rows=2048_s2: test AUC" in said
    assert "best possible" in said


@pytest.mark.slow
def test_the_notebook_runs(repository, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(repository))
    notebook = nbformat.read(repository / "examples/quickstart.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    for cell in notebook.cells:
        cell.source = cell.source.replace("QIN_demo", "QIN_test").replace("Synthetic_demo", "Synthetic_test")
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert (tmp_path / "checkpoints/Synthetic_test/QIN_test.report.json").is_file()
    shown = [output["data"]["text/plain"] for cell in notebook.cells for output in cell.get("outputs", [])
             if output["output_type"] == "execute_result"]  # fmt: skip
    assert len(shown) == 4
    assert "'AUC': 0." in shown[0]
