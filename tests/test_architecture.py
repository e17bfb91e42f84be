"""The order of the modules, and what may stand in none of them: read from the source."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import plurallm

PROJECT = Path(__file__).resolve().parent.parent
PACKAGE = PROJECT / "plurallm"

ORDER = (
    "randomness",
    "device",
    "config",
    "survey",
    "synthetic",
    "divergence",
    "embedding",
    "preferences",
    "roles",
    "tasks",
    "content",
    "inspection",
    "node",
    "layers",
    "model",
    "training",
    "evaluation",
    "plurality",
    "mixing",
    "experts",
    "baselines",
    "records",
    "checkpoint",
    "privacy",
    "registration",
    "strategy",
    "tracking",
    "personal",
    "attack",
    "local_data",
    "client_app",
    "recorder",
    "server_app",
    "simulation",
    "compare",
    "report",
    "reward",
    "serving",
    "deploy",
    "cli",
)
"""A module, or a package, imports only what stands above it."""

FILES = sorted(PACKAGE.rglob("*.py"))


def dotted(file: Path) -> str:
    """``plurallm.strategy.fedavg``; a package's ``__init__`` keeps that name."""
    return ".".join(file.relative_to(PROJECT).with_suffix("").parts)


def noun(module: str) -> str:
    """The entry of ``ORDER`` that a module belongs to; empty for the package itself."""
    own = [part for part in module.split(".")[1:] if part != "__init__"]
    return own[0] if own else ""


def imported(source: str, module: str) -> Iterator[str]:
    """Every module of the package that a source imports, at any depth and in any spelling."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]
            if base == "plurallm":  # "from plurallm import __version__" imports no module
                names = [name for name in names if name != "plurallm.__version__"]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            names = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == "plurallm")


def wrong_imports(source: str, module: str) -> list[str]:
    """What a module imports although it does not stand above it."""
    own = noun(module)
    above = ORDER[: ORDER.index(own)] if own else ()
    return [name for name in imported(source, module) if noun(name) not in (*above, own)]


def documentation(tree: ast.AST) -> set[int]:
    """Identities of the strings that are statements: docstrings, of attributes too."""
    return {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}


def device_names(source: str, module: str) -> list[int]:
    """Lines of the strings that name a kind of device where none may."""
    tree = ast.parse(source)
    allowed = documentation(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and (module, node.name) in (
            ("plurallm.device", "choose_device"),
            ("plurallm.device", "records_steps"),
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


def test_the_order_lists_every_module_and_no_other() -> None:
    nouns = {noun(dotted(file)) for file in FILES} - {""}
    assert nouns == set(ORDER)
    assert len(set(ORDER)) == len(ORDER)


@pytest.mark.parametrize("file", FILES, ids=dotted)
def test_a_module_imports_only_what_stands_above_it(file: Path) -> None:
    assert wrong_imports(file.read_text(), dotted(file)) == []


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
    ("module", "source"),
    [
        ("plurallm.config.compose", "from plurallm.tasks import assign_roles"),
        ("plurallm.config.compose", "import plurallm.tasks"),
        ("plurallm.config.compose", "import json, plurallm.tasks as t"),
        ("plurallm.config.compose", "from plurallm import tasks"),
        ("plurallm.config.compose", "from ..tasks import assign_roles"),
        ("plurallm.config.__init__", "from ..tasks import assign_roles"),
        ("plurallm.config.compose", "from .. import tasks"),
        ("plurallm.divergence", "from .tasks import assign_roles"),
        ("plurallm.divergence", "def f():\n    if x:\n        from plurallm.model import Block"),
        ("plurallm.divergence", "importlib.import_module('plurallm.model')"),
        ("plurallm.divergence", "from plurallm.novelty import x"),
        ("plurallm.divergence", "from plurallm import novelty"),
        ("plurallm.checkpoint", "from plurallm.strategy.mean import OrderedMean"),
        ("plurallm.simulation", "from plurallm.report import ARMS"),
        ("plurallm.__init__", "from plurallm.randomness import generator"),
        ("plurallm.__init__", "from .randomness import generator"),
    ],
)
def test_a_wrong_import_is_caught(module: str, source: str) -> None:
    assert len(wrong_imports(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("plurallm.tasks", "from plurallm.config import Config\nimport plurallm.survey"),
        ("plurallm.strategy.fedavg", "from plurallm.strategy.mean import OrderedMean"),
        ("plurallm.strategy.fedavg", "from .mean import OrderedMean\nfrom . import mean"),
        ("plurallm.strategy.__init__", "from .fedavg import GroupFedAvg"),
        ("plurallm.strategy.fedavg", "from plurallm import __version__, randomness"),
        ("plurallm.divergence", "import torch, plurallm_extras\nfrom flwr.common import tasks"),
        ("plurallm.divergence", "text = 'from plurallm.cli import main'"),
    ],
)
def test_a_right_import_is_let_through(module: str, source: str) -> None:
    assert wrong_imports(source, module) == []


@pytest.mark.parametrize(
    ("module", "source", "lines"),
    [
        ("plurallm.model", "x = 1\ny = x.to('cuda')", [2]),
        ("plurallm.model", "y = f'cuda:{n}'", [1]),
        ("plurallm.client_app", "def train():\n    return 'cuda'", [2]),
        ("plurallm.model", "def choose_device():\n    return 'cuda'", [2]),
        ("plurallm.device", "def choose_device():\n    return 'cuda'", []),
        ("plurallm.model", "'''Runs on cuda.'''\ndef f():\n    '''On cuda.'''", []),
        ("plurallm.model", "torch.cuda.is_available()  # 'cuda'", []),
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
