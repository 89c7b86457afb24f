"""How large the house is, beside what it shall be: ``python -m tools.house``."""

import ast
import json
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]
BEFORE = {  # measured by this command at a1e3405
    "lines of `easytune_lib/`": 28587,
    "files of `easytune_lib/`": 141,
    "files above 400 lines": 14,
    "functions of more than 6 positional parameters": 36,
    "names of `import easytune_lib as et`": 0,
    "lines of tests": 20273,
    "notebooks; studies": "21; 0",
    "code lines of the median notebook": 80,
}
GOAL = ("at most 16,000", "", "0", "0", "about 30", "at most 13,000", "12; a few", "40")


def measured(root: Path = ROOT) -> dict[str, int | str]:
    """Each measure by its name."""
    files = {p: p.read_text(encoding="utf-8") for p in (root / "easytune_lib").rglob("*.py")}
    many = 0
    for text in files.values():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                names = [arg.arg for arg in (*node.args.posonlyargs, *node.args.args)]
                many += len([name for name in names if name not in ("self", "cls")]) > 6
    lines = {path: len(text.splitlines()) for path, text in files.items()}
    books = sorted((root / "notebooks").glob("*.ipynb"))
    studies = sorted((root / "notebooks" / "studies").glob("*.ipynb"))
    door = ast.parse(files[root / "easytune_lib" / "__init__.py"])
    places = next(
        (
            ast.literal_eval(node.value)
            for node in door.body
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "_PLACES"
        ),
        {},
    )
    return {
        "lines of `easytune_lib/`": sum(lines.values()),
        "files of `easytune_lib/`": len(files),
        "files above 400 lines": sum(count > 400 for count in lines.values()),
        "functions of more than 6 positional parameters": many,
        "names of `import easytune_lib as et`": sum(len(n.split()) for n in places.values()),
        "lines of tests": sum(
            len(p.read_text(encoding="utf-8").splitlines()) for p in (root / "tests").rglob("*.py")
        ),
        "notebooks; studies": f"{len(books)}; {len(studies)}",
        "code lines of the median notebook": round(median(map(_code_lines, books + studies))),
    }


def _code_lines(path: Path) -> int:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = ("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    return sum(len(text.splitlines()) for text in code)


def main() -> None:
    """Print the table."""
    print("| | before | now | goal |\n|---|---|---|---|")
    for (name, value), goal in zip(measured().items(), GOAL, strict=True):
        print(f"| {name} | {BEFORE[name]} | {value} | {goal} |")


if __name__ == "__main__":
    main()
