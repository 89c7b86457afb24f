"""A module imports only from lower floors, or from its own folder."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

LIBRARY = Path(__file__).parents[1] / "easytune_lib"
FLOORS = {
    0: (
        "choices",
        "plan",
        "types",
        "seeding",
        "checkpoints",
        "storage",
        "records",
        "beacon",
        "distributed",
        "progress",
        "intervals",
    ),
    1: ("motion", "diffusion", "text", "training"),
    2: ("data", "models", "rewards", "metrics"),
    3: ("finetuning", "analysis"),
    4: ("viz", "recipes", "workbench"),
    5: ("experiments",),
    6: ("extras",),
    7: ("app", "__main__"),
}
FLOOR = {part: floor for floor, parts in FLOORS.items() for part in parts}
PLAIN = "easytune_lib.metrics.intervals"  # of numbers alone: as low as what everyone may import
APART = {1, 3}  # floors whose parts do not know each other
FORBIDDEN = {
    "metrics": {"rewards", "models"},  # the judge shares no code with the judged
    "viz": set(FLOOR) - {*FLOORS[0], "motion"},  # any figure can be redrawn without a model
}
MODULES = sorted(LIBRARY.rglob("*.py"))


def part_of(path: Path) -> str:
    """The folder or the module right below the library."""
    return path.relative_to(LIBRARY).parts[0].removesuffix(".py")


def imported(source: str) -> Iterator[str]:
    """Parts of the library that a module imports, wherever it does so."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            words = name.split(".")
            if words[0] == "easytune_lib" and words[1] != "__version__":
                yield "intervals" if name.startswith(PLAIN) else words[1]


def breaches(part: str, source: str) -> list[str]:
    """What a module of ``part`` imports and must not."""
    return [
        other
        for other in imported(source)
        if other != part
        and (
            FLOOR[other] > FLOOR[part]
            or (FLOOR[other] == FLOOR[part] and FLOOR[part] in APART)
            or other in FORBIDDEN.get(part, ())
        )
    ]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(LIBRARY)))
def test_a_module_imports_from_lower_floors_only(path: Path):
    if path == LIBRARY / "__init__.py":
        return  # the door; see tests/test_door.py
    part = part_of(path)
    assert part in FLOOR, f"{part} stands on no floor: give it one here and in CONTRIBUTING.md"
    found = breaches(part, path.read_text())
    assert not found, f"{part} (floor {FLOOR[part]}) imports {', '.join(found)}"


@pytest.mark.parametrize(
    ("part", "source", "found"),
    [
        ("motion", "from easytune_lib.models.mdm import MDM", ["models"]),
        ("motion", "def f():\n    import easytune_lib.diffusion.sampler", ["diffusion"]),
        ("metrics", "from easytune_lib.rewards import spm", ["rewards"]),
        ("metrics", "from easytune_lib.models import blocks", ["models"]),
        ("viz", "from easytune_lib.diffusion import rollout", ["diffusion"]),
        ("viz", "from easytune_lib.motion.motion import Motion", []),
        ("models", "from easytune_lib.rewards import spm", []),
        ("app", "from easytune_lib import __version__", []),
    ],
)
def test_breaches_are_seen(part: str, source: str, found: list[str]):
    assert breaches(part, source) == found
