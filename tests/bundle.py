"""A tiny run and the reward bundle exported from it."""

from pathlib import Path

from tiny import TINY

from plurallm.config.compose import load_tool_config
from plurallm.config.services import ExportConfig
from plurallm.federate.in_process import run_in_process
from plurallm.reward.export import export_bundle

GROUPS = ("Avaria", "Belora")
"""Groups that release their context: one held out, one trained."""


def train_tiny(folder: Path, *overrides: str) -> Path:
    """Train for two rounds; returns the run's folder."""
    run = folder / "run"
    settings = ["federation.rounds=2", "threads=1", f"output_dir={run}", f"cache_dir={folder}"]
    run_in_process([*TINY, "data.num_groups=4", *settings, *overrides])
    return run


def export_tiny(run: Path, folder: Path, *overrides: str) -> Path:
    """Export with the context of ``GROUPS``; returns the bundle's folder."""
    released = f"release_context=[{','.join(GROUPS)}]"
    settings = [f"run={run}", f"folder={folder}", released, *overrides]
    export_bundle(load_tool_config("export", settings, ExportConfig))
    return folder
