"""docs/lecture.ipynb: in step with the script that makes it, and run from end to end."""

import pytest
from helpers import ROOT

nbformat = pytest.importorskip("nbformat")


def test_the_notebook_is_what_its_script_makes():
    from benchmarks.notebook import made

    found = nbformat.read(ROOT / "docs" / "lecture.ipynb", 4)
    assert found == made(), "write it anew: python -m benchmarks.notebook"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_notebook_runs(monkeypatch, tmp_path):
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("LDM_LECTURE_SIZE", "0.1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    book = nbformat.read(ROOT / "docs" / "lecture.ipynb", 4)
    where = {"metadata": {"path": str(ROOT)}}
    nbclient.NotebookClient(book, timeout=600, resources=where).execute()
    shown = [
        output["data"]
        for cell in book.cells
        for output in cell.get("outputs", [])
        if output["output_type"] in ("display_data", "execute_result")
    ]
    pictures = [data for data in shown if "image/png" in data]
    assert len(pictures) >= 18  # of 18 figures and one by hand; 17 needs a package
