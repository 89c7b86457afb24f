"""nbval, with a tolerance for numbers and without its silences.

    PYTHONPATH=tests pytest -p nbval_tolerance --nbval --nb-rtol 1e-3 notebooks

Numbers in text, in JSON and in plotly's arrays are compared one by one: a cell passes if each is
close to the stored one. Pictures and players are not compared. A cell that was never run fails,
which plain nbval lets pass. Tags of a cell: ``nbval-rtol-1e-2``, ``nbval-atol-1e-6``, and nbval's
own ``nbval-ignore-output`` and ``nbval-skip``. A notebook runs in a temporary copy of the folders
that it writes, so that the checkout stays as it is.
"""

import base64
import copy
import math
import os
import re
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nbval.plugin
import numpy as np
import pytest
from nbval.plugin import IPyNbCell

Close = Callable[[float, float], bool]

NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d+\.\d*|\.\d+|\d+)(?:[eE][-+]?\d+)?(?!\w|\.\d)")
MESSAGES = 60.0  # seconds to wait for what a cell has said; nbval's 5 are few on a busy machine


def settle(new: Any, stored: Any, close: Close) -> Any:
    """``new``, with each number that is close to its counterpart in ``stored`` replaced by it."""
    if isinstance(new, str) and isinstance(stored, str):
        return _settle_text(new, stored, close)
    if isinstance(new, bool) or isinstance(stored, bool):
        return new
    if isinstance(new, int | float) and isinstance(stored, int | float):
        return stored if close(new, stored) else new
    if isinstance(new, dict) and isinstance(stored, dict):
        if "bdata" in new and "bdata" in stored and new.get("dtype") == stored.get("dtype"):
            return _settle_array(new, stored, close)
        return {k: settle(v, stored[k], close) if k in stored else v for k, v in new.items()}
    if isinstance(new, list) and isinstance(stored, list) and len(new) == len(stored):
        return [settle(x, y, close) for x, y in zip(new, stored, strict=True)]
    return new


def _settle_text(new: str, stored: str, close: Close) -> str:
    """Text with numbers; the space around them may differ, as it does in tables."""
    bare = [re.sub(r"\s+", " ", NUMBER.sub("#", text)) for text in (new, stored)]
    if bare[0] != bare[1]:
        return new
    numbers = iter(NUMBER.findall(new))

    def chosen(match: re.Match[str]) -> str:
        number = next(numbers)
        return match[0] if close(float(number), float(match[0])) else number

    return NUMBER.sub(chosen, stored)


def _settle_array(new: dict[str, Any], stored: dict[str, Any], close: Close) -> dict[str, Any]:
    """An array as plotly writes it: a type, and the numbers in base 64."""
    a, b = (
        np.frombuffer(base64.b64decode(part["bdata"]), part["dtype"]).tolist()
        for part in (new, stored)
    )
    same = new.get("shape") == stored.get("shape") and len(a) == len(b)
    return stored if same and all(map(close, a, b)) else new


def settle_outputs(new: Sequence[Any], stored: Sequence[Any], close: Close) -> list[Any]:
    """As :func:`settle`, for a cell's outputs; those of one kind are paired in order."""
    result = copy.deepcopy(list(new))
    pairs: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for output in stored:
        pairs[output["output_type"], output.get("name", "")].append(output)
    for output in result:
        kind = (output["output_type"], output.get("name", ""))
        if not pairs[kind]:
            continue
        other = pairs[kind].pop(0)
        if "text" in output:
            output["text"] = settle(output["text"], other["text"], close)
        for mime in set(output.get("data", ())) & set(other.get("data", ())):
            value, wanted = output["data"][mime], other["data"][mime]
            picture = mime == "image/svg+xml" or str(wanted).lstrip().startswith("<iframe")
            output["data"][mime] = wanted if picture else settle(value, wanted, close)
    return result


def closeness(tags: Sequence[str], rtol: float, atol: float) -> Close:
    """How close numbers must be, by the options and by the tags of a cell."""
    for tag in tags:
        if tag.startswith("nbval-rtol-"):
            rtol = float(tag.removeprefix("nbval-rtol-"))
        elif tag.startswith("nbval-atol-"):
            atol = float(tag.removeprefix("nbval-atol-"))

    def close(a: float, b: float) -> bool:
        both_nan = math.isnan(a) and math.isnan(b)
        return both_nan or math.isclose(a, b, rel_tol=rtol, abs_tol=atol)

    return close


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("nbval tolerance")
    group.addoption("--nb-rtol", type=float, default=0.0, help="relative tolerance of numbers")
    group.addoption("--nb-atol", type=float, default=0.0, help="absolute tolerance of numbers")


def pytest_configure(config: pytest.Config) -> None:
    os.environ["IPYTHONDIR"] = tempfile.mkdtemp(prefix="nbval-")  # not the user's start-up files
    compare, run = IPyNbCell.compare_outputs, IPyNbCell.runtest

    def compare_outputs(self: Any, test: Any, ref: Any, skip_compare: Any = None) -> bool:
        tags = self.cell.metadata.get("tags", [])
        close = closeness(tags, config.getoption("nb_rtol"), config.getoption("nb_atol"))
        return compare(self, settle_outputs(test, ref, close), ref, skip_compare)

    def runtest(self: Any) -> None:
        self.output_timeout = MESSAGES
        never_run = self.cell.execution_count is None and self.cell.source.strip()
        if never_run and not self.options["skip"]:
            self.raise_cell_error("The stored cell was never run: there is nothing to compare")
        run(self)

    start = nbval.plugin.RunningKernel
    root, scratch = Path(config.rootpath).resolve(), tempfile.mkdtemp(prefix="checkout-")
    config.add_cleanup(lambda: shutil.rmtree(scratch, ignore_errors=True))

    def start_elsewhere(kernel: str, cwd: str, **options: Any) -> Any:
        """Start a kernel where records and figures may be written."""
        from easytune_lib.storage import workspace  # late, as jaxtyping wants to see it first

        if Path(cwd).resolve().is_relative_to(root):
            cwd = str(workspace(root, Path(tempfile.mkdtemp(dir=scratch)), Path(cwd) / "any"))
        return start(kernel, cwd=cwd, **options)

    IPyNbCell.compare_outputs, IPyNbCell.runtest = compare_outputs, runtest
    nbval.plugin.RunningKernel = start_elsewhere
