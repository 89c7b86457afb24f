"""A notebook as a function: typed parameters in, stored outputs, and rules that keep it so."""

import ast
import hashlib
import io
import json
import math
import re
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Scalar = bool | int | float | str
Notebook = dict[str, Any]  # a notebook, or one of its cells, as JSON has it

MAX_LINES = 25
"""Lines of code a cell may have."""

_KINDS: dict[str, type] = {"bool": bool, "int": int, "float": float, "str": str}
_BOOLS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True)
class Parameter:
    """One line of the parameters cell, such as ``k: int = 10  # recorded steps``.

    A comment that holds ``mdm | mld`` lists the only values that a string may have.
    """

    name: str
    kind: str  # "bool", "int", "float" or "str"
    default: Scalar
    help: str

    @property
    def choices(self) -> tuple[str, ...]:
        """The only values allowed; empty: any."""
        found = re.search(r"[\w.-]+(?: \| [\w.-]+)+", self.help) if self.kind == "str" else None
        return tuple(found[0].split(" | ")) if found else ()

    def __str__(self) -> str:
        allowed = f" ({' | '.join(self.choices)})" if self.choices else ""
        return f"{self.name}: {self.kind} = {self.default!r}{allowed}"

    def parse(self, text: str) -> Scalar:
        """The value that ``text`` of a command line stands for.

        Raises:
            ValueError: It is no value of this kind: 3.5 for an int, nan for a float.
        """
        if self.kind == "str":
            return self.check(text)
        if self.kind == "bool" and text.lower() in _BOOLS:
            return _BOOLS[text.lower()]
        try:
            return self.check(_KINDS[self.kind](text)) if self.kind != "bool" else self.check(text)
        except ValueError:
            raise self._refusal(text) from None

    def check(self, value: object) -> Scalar:
        """``value``, of which YAML or Python already knows the type, if it is of this kind.

        An int is a float too, and so is the string ``1e-4``, as which YAML reads that number.

        Raises:
            ValueError: It is of another kind, not finite, or not among the choices.
        """
        if self.kind == "float" and not isinstance(value, bool):
            if isinstance(value, str) and re.fullmatch(r"[+-]?[\d.]+[eE][+-]?\d+", value):
                value = float(value)
            if isinstance(value, int | float) and math.isfinite(value):
                return float(value)
        elif type(value) is _KINDS[self.kind] and (not self.choices or value in self.choices):
            return value  # pyright: ignore[reportReturnType]
        raise self._refusal(value)

    def _refusal(self, value: object) -> ValueError:
        return ValueError(f"{value!r} is no value for the parameter {self}")


def read_notebook(path: Path) -> Notebook:
    """Read a notebook of format 4; sources are joined, outputs are as in the file.

    Plain JSON on purpose: importing nbformat takes more than a second.

    Raises:
        ValueError: The file is missing, no JSON, or of another format.
    """
    try:
        notebook = json.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a notebook: {error}") from error
    if not isinstance(notebook, dict) or notebook.get("nbformat") != 4:
        raise ValueError(f"{path} is not a notebook of format 4, which is expected")
    if not isinstance(notebook.get("cells"), list) or not all(map(_is_cell, notebook["cells"])):
        raise ValueError(f"{path} has no list of cells with a type, a source and metadata")
    for cell in notebook["cells"]:
        cell["source"] = "".join(cell["source"])
    return notebook


def _is_cell(cell: Any) -> bool:
    """Whether it has what is read of a cell, of the right kinds."""
    if not isinstance(cell, dict) or not isinstance(cell.get("cell_type"), str):
        return False
    source, about = cell.get("source"), cell.get("metadata", {})
    marked = about.get("tags", []) if isinstance(about, dict) else None
    lines = [source] if isinstance(source, str) else source
    return all(
        isinstance(texts, list) and all(isinstance(text, str) for text in texts)
        for texts in (lines, marked)
    )


def tags(cell: Mapping[str, Any]) -> Sequence[str]:
    """The tags of a cell."""
    return cell.get("metadata", {}).get("tags", [])


def code_cells(notebook: Notebook) -> list[Notebook]:
    """Cells that hold code."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def title(notebook: Notebook) -> str:
    """The first heading, or ``""``."""
    first = notebook["cells"][0]["source"] if notebook["cells"] else ""
    return first.splitlines()[0].removeprefix("# ").strip() if first.startswith("# ") else ""


def parameters_of(notebook: Notebook) -> tuple[Parameter, ...]:
    """The parameters that the cell tagged ``parameters`` declares; () without such a cell.

    Raises:
        ValueError: Several cells are tagged, or one holds more than typed, commented scalars.
    """
    tagged = [cell for cell in notebook["cells"] if "parameters" in tags(cell)]
    if len(tagged) > 1:
        raise ValueError(f"{len(tagged)} cells are tagged `parameters`, expected one")
    return tuple(_declared(tagged[0]["source"])) if tagged else ()


def _declared(source: str) -> Iterator[Parameter]:
    try:
        comments = {
            token.start[0]: token.string.lstrip("#").strip()
            for token in tokenize.generate_tokens(io.StringIO(source).readline)
            if token.type == tokenize.COMMENT
        }
        body = ast.parse(source).body
    except (SyntaxError, tokenize.TokenError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"the parameters cell is not Python: {error}") from error
    for node in body:
        text = ast.unparse(node)
        if not (
            isinstance(node, ast.AnnAssign)
            and isinstance(node.target, ast.Name)
            and isinstance(node.annotation, ast.Name)
            and node.annotation.id in _KINDS
            and node.value is not None
        ):
            raise ValueError(
                f"`{text}` in the parameters cell: expected `name: kind = value  # what it is`, "
                f"where kind is one of {', '.join(_KINDS)}"
            )
        lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
        help_text = " ".join(comments[line] for line in lines if line in comments)
        if not help_text:
            raise ValueError(f"the parameter `{text}` has no comment that says what it is")
        try:
            default = ast.literal_eval(node.value)
        except (ValueError, TypeError, RecursionError, MemoryError):
            raise ValueError(f"`{text}` in the parameters cell: expected a plain value") from None
        parameter = Parameter(node.target.id, node.annotation.id, default, help_text)
        parameter.check(default)
        yield parameter


def read_values(
    given: Mapping[str, object], parameters: Sequence[Parameter], where: str
) -> dict[str, Scalar]:
    """Check values by name; strings of a command line and values from YAML alike.

    Raises:
        ValueError: A name is unknown or a value ill-typed; lists the parameters there are.
    """
    known = {parameter.name: parameter for parameter in parameters}
    if unknown := sorted(given.keys() - known.keys()):
        listed = "; ".join(map(str, parameters)) or "none"
        raise ValueError(
            f"{where} has no parameter {', '.join(map(repr, unknown))}. Its parameters: {listed}"
        )
    return {name: known[name].check(value) for name, value in given.items()}


def parse_values(
    given: Sequence[Sequence[str]], parameters: Sequence[Parameter], where: str
) -> dict[str, Scalar]:
    """As :func:`read_values`, for pairs of name and text from a command line."""
    known = {parameter.name: parameter for parameter in parameters}
    parsed = {name: known[name].parse(text) if name in known else text for name, text in given}
    return read_values(parsed, parameters, where)


def read_settings(path: Path, parameters: Sequence[Parameter]) -> dict[str, Scalar]:
    """Values from a YAML file.

    Raises:
        ValueError: It is not a YAML mapping, or :func:`read_values` refuses it.
    """
    import yaml

    try:
        given = yaml.safe_load(path.read_bytes()) or {}
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(given, dict):
        raise ValueError(f"{path} holds a {type(given).__name__}, expected `name: value` lines")
    return read_values({str(name): value for name, value in given.items()}, parameters, str(path))


def source_hash(notebook: Notebook) -> str:
    """Digest of all that runs: the code and the tags, not the prose and not the outputs."""
    content = [[cell["source"], sorted(tags(cell))] for cell in code_cells(notebook)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def publish(path: Path, executed: Path, seconds: float, peak_mb: int) -> None:
    """Store the outputs of a default run in the committed notebook, with a hash of its code.

    Raises:
        ValueError: The notebook's code is no longer what was executed.
    """
    from easytune_lib.storage import write_atomic

    notebook, result = read_notebook(path), read_notebook(executed)
    if source_hash(notebook) != source_hash(result):
        raise ValueError(f"{path} was changed while it ran: run it again")
    for cell, done in zip(code_cells(notebook), code_cells(result), strict=True):
        cell["outputs"], cell["execution_count"] = done["outputs"], done["execution_count"]
    notebook["metadata"].pop("widgets", None)
    notebook["metadata"]["easytune"] = {
        "sources": source_hash(notebook),
        "seconds": round(seconds),
        "peak_mb": peak_mb,
    }
    for cell in notebook["cells"]:
        cell["source"] = cell["source"].splitlines(keepends=True)
    text = json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False)
    write_atomic(path, (text + "\n").encode())


def contract_breaches(notebook: Notebook) -> list[str]:
    """What breaks the contract that keeps notebooks readable and runnable without a hand."""
    cells, code = notebook["cells"], code_cells(notebook)
    found = []
    if "?" not in title(notebook):
        found.append("the first cell is no markdown cell whose title `# ...?` is a question")
    ids = [cell.get("id") for cell in cells]
    if None in ids or len(set(ids)) < len(ids) or notebook.get("nbformat_minor", 0) < 5:
        found.append("cells have no ids of their own: save with notebook format 4.5")
    if not code or ["parameters" in tags(cell) for cell in code] != [True] + [False] * (
        len(code) - 1
    ):
        found.append("not exactly one cell, the first with code, is tagged `parameters`")
    try:
        parameters_of(notebook)
    except (ValueError, SyntaxError) as error:
        found.append(str(error))
    for number, cell in enumerate(code, 1):
        found += [f"code cell {number} {breach}" for breach in _cell_breaches(cell)]
    return found


def _cell_breaches(cell: Notebook) -> Iterator[str]:
    source = cell["source"]
    if (count := len(source.splitlines())) > MAX_LINES:
        yield f"has {count} lines, at most {MAX_LINES} are read with ease"
    if source.rstrip().endswith(";"):
        yield "ends with `;`, which does not hide a value from nbval: write `_ = ...`"
    if "raises-exception" in tags(cell):
        yield "is tagged `raises-exception`, at which papermill fails: catch the error in the cell"
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except SyntaxError as error:
        yield f"is no plain Python (magics are none): {error.msg}, line {error.lineno}"
        return
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield f"defines `{node.name}`, which belongs into the library"


def staleness(notebook: Notebook) -> list[str]:
    """Why the stored outputs are not those of the code; empty if they are."""
    found = []
    stored = notebook["metadata"].get("easytune", {}).get("sources")
    if stored != source_hash(notebook):
        what = "its code was changed since it was run" if stored else "it was never run"
        found.append(f"{what}: run `easytune run --inplace`")
    runs = [cell.get("execution_count") for cell in code_cells(notebook) if cell["source"].strip()]
    if runs != list(range(1, len(runs) + 1)):
        found.append(f"its cells were run as {runs}, expected once each, from top to bottom")
    if any(
        output["output_type"] == "error"
        for c in code_cells(notebook)
        for output in c.get("outputs", ())
    ):
        found.append("an error is stored among its outputs")
    return found


def find_notebooks(names: Sequence[str], root: Path) -> list[Path]:
    """Notebooks by name or beginning of a name, in order; all where no name is given.

    Raises:
        ValueError: There is none, or a name fits none or several.
    """
    books = root / "notebooks"
    paths = sorted(books.glob("*.ipynb")) + sorted(books.glob("studies/*.ipynb"))
    known = ", ".join(path.stem for path in paths)
    if not paths:
        raise ValueError(f"there are no notebooks in {root / 'notebooks'}: run in the repository")
    found = []
    for name in names:
        fits = [p for p in paths if p.stem == name] or [p for p in paths if p.stem.startswith(name)]
        if len(fits) != 1:
            raise ValueError(f"{len(fits)} notebooks are called {name!r}, expected one of {known}")
        found.append(fits[0])
    return [path for path in paths if path in found] if names else paths
