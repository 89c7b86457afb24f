"""Notebooks of a few lines, and a repository to hold them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

K = "k: int = 3  # steps"


def cell(source: str, kind: str = "code", tags: Sequence[str] = ()) -> dict[str, Any]:
    """One cell, without its id."""
    code = {"outputs": [], "execution_count": None} if kind == "code" else {}
    return {"cell_type": kind, "metadata": {"tags": list(tags)}, "source": source} | code


def notebook(*code: str, parameters: str = K, heading: str = "# Does it run?") -> dict[str, Any]:
    """A notebook that keeps the contract, of these code cells."""
    cells = [cell(heading, "markdown"), cell(parameters, tags=["parameters"]), *map(cell, code)]
    for number, made in enumerate(cells):
        made["id"] = f"cell-{number}"
    kernel = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    metadata = {"kernelspec": kernel}
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": metadata, "cells": cells}


def write(root: Path, name: str, content: dict[str, Any]) -> Path:
    """Put a notebook into a repository's ``notebooks``."""
    path = root / "notebooks" / f"{name}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def executed(content: dict[str, Any], text: str = "3\n") -> dict[str, Any]:
    """The notebook as if it had run and each cell had printed ``text``."""
    content = json.loads(json.dumps(content))
    number = 0
    for made in content["cells"]:
        if made["cell_type"] == "code":
            number += 1
            made["execution_count"] = number
            made["outputs"] = [{"output_type": "stream", "name": "stdout", "text": [text]}]
    return content
