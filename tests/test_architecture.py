"""What may stand in none of the modules, and what a wing may import: read from the source."""

import ast
import re
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest

import plurallm

PROJECT = Path(__file__).resolve().parent.parent
PACKAGE = PROJECT / "plurallm"

FILES = sorted(PACKAGE.rglob("*.py"))


def dotted(file: Path) -> str:
    """``plurallm.federate.fedavg``; a package's ``__init__`` keeps that name."""
    return ".".join(file.relative_to(PROJECT).with_suffix("").parts)


def documentation(tree: ast.AST) -> set[int]:
    """Identities of the strings that are statements: docstrings, of attributes too."""
    return {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}


def device_names(source: str, module: str) -> list[int]:
    """Lines of the strings that name a kind of device where none may."""
    tree = ast.parse(source)
    allowed = documentation(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and (module, node.name) in (
            ("plurallm.config.device", "choose_device"),
            ("plurallm.config.device", "records_steps"),
        ):
            allowed |= {id(inner) for inner in ast.walk(node)}
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and "cuda" in node.value
        and id(node) not in allowed
    ]


PICKLES = ("pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal")
SEEDERS = (
    *("torch.manual_seed", "torch.random.manual_seed", "torch.seed", "torch.cuda.manual_seed"),
    *("torch.cuda.manual_seed_all", "random.seed", "seed_everything", "set_seed"),
)
OWN_GENERATORS = ("default_rng", "Generator", "SeedSequence")


def forbidden(source: str) -> list[str]:
    """Pickle in any form, and seeds or draws of a global state."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            base = getattr(node, "module", None)
            names = [f"{base}.{alias.name}" if base else alias.name for alias in node.names]
            found += [n for n in names if n.split(".")[0] in PICKLES or n in SEEDERS]
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            parent, _, name = called.rpartition(".")
            global_draw = parent in ("np.random", "numpy.random") and name not in OWN_GENERATORS
            pickled = called in ("torch.load", "torch.save") or any(
                key.arg == "allow_pickle" and ast.unparse(key.value) != "False"
                for key in node.keywords
            )
            if called in SEEDERS or global_draw or pickled:
                found.append(ast.unparse(node))
    return found


def test_a_wing_imports_only_wings_to_its_left() -> None:
    # In a process of its own: import-linter configures logging for the whole process.
    code = "import sys; from importlinter.cli import lint_imports as lint\n"
    code += "sys.exit(lint('pyproject.toml', no_cache=True))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_the_tree_in_the_guide_names_every_module() -> None:
    guide = (PROJECT / "CONTRIBUTING.md").read_text()
    told = Counter(re.findall(r"^ *- (?:\*\*)?`([a-z_]+\.py)`", guide, re.MULTILINE))
    assert told == Counter(file.name for file in FILES if file.name != "__init__.py")


def test_no_two_modules_have_one_file_name() -> None:
    stems = Counter(file.stem for file in FILES if file.stem != "__init__")
    assert [stem for stem, times in stems.items() if times > 1] == []


@pytest.mark.parametrize("file", FILES, ids=dotted)
def test_the_device_is_chosen_in_one_place(file: Path) -> None:
    assert device_names(file.read_text(), dotted(file)) == []


@pytest.mark.parametrize("file", FILES, ids=dotted)
def test_nothing_is_pickled_and_no_global_state_is_seeded(file: Path) -> None:
    assert forbidden(file.read_text()) == []


def test_the_version_is_the_projects() -> None:
    with (PROJECT / "pyproject.toml").open("rb") as file:
        assert plurallm.__version__ == tomllib.load(file)["project"]["version"]


# The checks themselves


@pytest.mark.parametrize(
    ("module", "source", "lines"),
    [
        ("plurallm.learn.transformer", "x = 1\ny = x.to('cuda')", [2]),
        ("plurallm.learn.transformer", "y = f'cuda:{n}'", [1]),
        ("plurallm.federate.client_app", "def train():\n    return 'cuda'", [2]),
        ("plurallm.learn.transformer", "def choose_device():\n    return 'cuda'", [2]),
        ("plurallm.config.device", "def choose_device():\n    return 'cuda'", []),
        ("plurallm.learn.transformer", "'''Runs on cuda.'''\ndef f():\n    '''On cuda.'''", []),
        ("plurallm.learn.transformer", "torch.cuda.is_available()  # 'cuda'", []),
    ],
)
def test_a_named_device_is_caught(module: str, source: str, lines: list[int]) -> None:
    assert device_names(source, module) == lines


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import json, pickle as p",
        "from pickle import loads",
        "from joblib import dump",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=flag)",
        "torch.load(path)",
        "torch.manual_seed(1)",
        "from torch import manual_seed",
        "def f():\n    np.random.seed(0)",
        "numpy.random.rand(3)",
        "random.seed(1)",
    ],
)
def test_pickle_and_global_seeds_are_caught(source: str) -> None:
    assert len(forbidden(source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "np.load(path, allow_pickle=False)",
        "torch.Generator().manual_seed(1)",
        "np.random.default_rng(1).normal()",
        "'''import pickle'''",
    ],
)
def test_seeded_generators_and_plain_arrays_are_let_through(source: str) -> None:
    assert forbidden(source) == []
