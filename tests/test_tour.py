"""The notebook of the tour, run as a reader runs it: in a folder of its own."""

import json
from pathlib import Path

import pytest

TOUR = Path(__file__).resolve().parent.parent / "docs" / "tour.ipynb"


def test_the_tour_runs_from_its_frame_to_its_bundle(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="the tour is run: pip install '.[dev]'")
    nbclient = pytest.importorskip("nbclient", reason="the tour is run: pip install '.[dev]'")
    monkeypatch.setenv("PYTHONPATH", str(TOUR.parent.parent))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    notebook = nbformat.read(TOUR, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=600, resources=resources).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [output for output in shown if "image/png" in output.get("data", {})]
    assert len(pictures) == 1
    summary = json.loads((tmp_path / "tour-run" / "summary.json").read_text())
    cells, others = summary["cells"], summary["baselines"]["context_mean"]["cells"]
    for cell in ("held_out_groups.seen_questions", "held_out_groups.unseen_questions"):
        assert cells[cell]["alignment"] > others[cell]["alignment"]
    assert (tmp_path / "tour-run" / "report.html").is_file()
    assert (tmp_path / "tour-comparison" / "comparison.json").is_file()
    assert (tmp_path / "tour-bundle" / "config.json").is_file()
