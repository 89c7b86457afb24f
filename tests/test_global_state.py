"""Nothing that computes prints, seeds, or changes what the whole process shares."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "easytune_lib"
MODULES = sorted(LIBRARY.rglob("*.py"))
COMPUTING = [path for path in MODULES if LIBRARY / "app" not in path.parents]

GLOBAL_CALLS = {
    "random.seed", "np.random.seed", "numpy.random.seed", "torch.seed", "torch.cuda.manual_seed",
    "torch.cuda.manual_seed_all", "torch.set_default_dtype", "torch.set_default_device",
    "torch.set_num_threads", "torch.set_rng_state",
    "torch.use_deterministic_algorithms", "torch.autograd.set_detect_anomaly", "os.chdir",
    "os.putenv", "warnings.filterwarnings", "warnings.simplefilter", "plt.show", "plt.style.use",
    "matplotlib.use", "matplotlib.rcParams.update", "plt.rcParams.update", "logging.basicConfig",
    "print", "input", "exec", "eval",
}  # fmt: skip
LEGACY_RANDOM = {"rand", "randn", "randint", "random", "choice", "shuffle", "normal", "uniform"}
ALLOWED = {
    "experiments/compare.py": "torch.set_num_threads"
}  # by the entry of a process of its own
SAMPLERS = {"torch.rand", "torch.randn", "torch.randint", "torch.randperm", "torch.multinomial"}


def inside(nodes: Iterable[ast.AST]) -> set[int]:
    """All that stands inside of some nodes."""
    return {id(inner) for node in nodes for inner in ast.walk(node)}


def breaches(source: str) -> Iterator[str]:
    """Calls that reach beyond the function they stand in."""
    tree = ast.parse(source)
    forked = inside(
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.With)
        and any("fork_rng" in ast.unparse(item.context_expr) for item in node.items)
    )
    first_weights = inside(  # drawn as torch's own layers draw theirs
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name == "__init__"
    )
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            yield f"line {node.lineno}: bare except"
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        where = f"line {node.lineno}: {name}"
        keywords = {keyword.arg for keyword in node.keywords}
        if name in GLOBAL_CALLS or name.endswith(".cuda"):
            yield where
        elif name == "torch.manual_seed" and id(node) not in forked:
            yield f"{where} outside of torch.random.fork_rng"
        elif (
            name in SAMPLERS
            and "generator" not in keywords
            and id(node) not in forked | first_weights
        ):
            yield f"{where} without a generator"
        elif re.fullmatch(r"((np|numpy)\.)?random\.\w+", name) and (
            name.rpartition(".")[2] in LEGACY_RANDOM
        ):
            yield f"{where}, which draws from a global stream"


@pytest.mark.parametrize("path", COMPUTING, ids=lambda path: str(path.relative_to(LIBRARY)))
def test_what_computes_touches_nothing_global(path: Path):
    allowed = ALLOWED.get(str(path.relative_to(LIBRARY)), "nothing")
    assert [found for found in breaches(path.read_text()) if allowed not in found] == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("torch.manual_seed(0)", 1),
        ("with torch.random.fork_rng(devices=[]):\n    torch.manual_seed(0)\n    torch.rand(2)", 0),
        ("torch.randn(3)", 1),
        ("torch.randn(3, generator=rng)", 0),
        ("class A:\n    def __init__(self):\n        self.w = torch.randn(3)", 0),
        ("x.cuda()", 1),
        ("np.random.rand(3)", 1),
        ("np.random.default_rng(3)", 0),
        ("random.shuffle(x)", 1),
        ("print(x)", 1),
        ("try:\n    pass\nexcept:\n    pass", 1),
    ],
)
def test_breaches_are_seen(source: str, found: int):
    assert len(list(breaches(source))) == found


IMPORT_ALL = """
import os, random, sys, warnings
import matplotlib, numpy, torch
def state():
    return {
        "torch stream": torch.random.get_rng_state().tolist(),
        "numpy stream": str(numpy.random.get_state()),
        "random stream": random.getstate(),
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "folder": os.getcwd(),
        "environment": dict(os.environ),
        "figure style": dict(matplotlib.rcParams),
        "float errors": numpy.geterr(),
    }
before = state()
for name in sys.argv[1:]:
    __import__(name)
after = state()
changed = [key for key in before if before[key] != after[key]]
assert not changed, changed
assert not {"transformers", "papermill", "diffusers", "pandas"} & set(sys.modules), "not lazy"
"""


@pytest.mark.slow
def test_importing_everything_changes_and_says_nothing():
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in MODULES
        if path.name != "__main__.py"
    ]
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:easytune_lib", "-c", IMPORT_ALL, *names],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
