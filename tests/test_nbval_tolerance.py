import base64
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from nbval_tolerance import closeness, settle, settle_outputs
from tiny_notebook import executed, notebook

TESTS = Path(__file__).parent
near = closeness([], rtol=1e-3, atol=0.0)


@pytest.mark.parametrize(
    ("new", "stored"),
    [
        ("loss 0.50001, 3 steps", "loss 0.5, 3 steps"),
        ("a    1.00\nb  -2e-05", "a 1.0\nb -2.0001e-05"),
        ("<td>0.12346</td>", "<td>0.12345</td>"),
        ("It is 3.1416.", "It is 3.1415."),
        ("tensor([1.0000, 2.0001])", "tensor([1.0000, 2.0000])"),
    ],
)
def test_close_numbers_in_text_become_the_stored_ones(new: str, stored: str):
    assert settle(new, stored, near) == stored


def test_only_the_number_that_is_off_stays():
    assert settle("a 1.0001 b 2.5", "a 1.0 b 2.0", near) == "a 1.0 b 2.5"


@pytest.mark.parametrize(
    ("new", "stored"),
    [("1.0 up", "1.0 down"), ("1.0", "1.0 2.0"), ("version 1.2.3", "version 1.2.4"), ("x1", "x2")],
)
def test_other_text_is_left_as_it_is(new: str, stored: str):
    assert settle(new, stored, near) == new


def test_json_is_compared_number_by_number_and_truth_is_no_number():
    new = {"a": [1.0001, 2, True], "b": {"c": 3.0}, "d": 1}
    stored = {"a": [1.0, 2, 1], "b": {"c": 4.0}}
    assert settle(new, stored, near) == {"a": [1.0, 2, True], "b": {"c": 3.0}, "d": 1}


def test_arrays_of_plotly_are_read():
    def packed(*values: float) -> dict[str, str]:
        array = np.array(values, dtype="f4")
        return {"dtype": "f4", "bdata": base64.b64encode(array.tobytes()).decode()}

    stored = packed(1.0, 2.0)
    assert settle(packed(1.0001, 2.0), stored, near) == stored
    assert settle(packed(1.1, 2.0), stored, near) == packed(1.1, 2.0)
    assert settle(packed(1.0), stored, near) == packed(1.0)


def test_tags_set_a_cells_tolerance():
    assert near(1.0001, 1.0) and not near(1.1, 1.0) and near(math.nan, math.nan)
    assert not closeness(["nbval-rtol-1e-9"], 1e-3, 0.0)(1.0001, 1.0)
    assert closeness(["nbval-atol-0.5"], 0.0, 0.0)(1.4, 1.0)


def test_outputs_are_paired_by_kind_and_pictures_are_not_compared():
    def shown(**data: str) -> dict:
        return {"output_type": "display_data", "data": data}

    def printed(text: str) -> dict:
        return {"output_type": "stream", "name": "stdout", "text": text}

    new = [printed("1.0001"), shown(**{"text/html": "<iframe srcdoc='a'>"}), shown(a="2.0001")]
    stored = [shown(**{"text/html": "<iframe srcdoc='b'>"}), shown(a="2.0"), printed("1.0")]
    assert settle_outputs(new, stored, near) == [stored[2], stored[0], stored[1]]
    assert new[0]["text"] == "1.0001"


@pytest.mark.slow
def test_nbval_with_this_plugin(tmp_path: Path):
    """Passes what drifts, fails what moved and what was never run."""
    stored = executed(
        notebook("print(0.5, '12.5 s')", "print(0.6)", "print(0.5000101)", "print(7)"), "0.50001\n"
    )
    cells = stored["cells"]
    cells[1]["outputs"] = []
    cells[2]["outputs"][0]["text"] = ["0.50001 9 s\n"]
    cells[4]["metadata"]["tags"] = ["nbval-rtol-1e-9"]
    cells[5] |= {"outputs": [], "execution_count": None}
    (tmp_path / "x.ipynb").write_text(json.dumps(stored))
    options = ["-q", "-rA", "-p", "no:cacheprovider", "-p", "nbval_tolerance", "--nbval"]
    options += ["--nbval-current-env", "--nb-rtol=1e-3"]
    options += [f"--nbval-sanitize-with={TESTS / 'nbval_sanitize.cfg'}"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "--rootdir", str(tmp_path), "x.ipynb"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
    )
    outcome = {
        line.split("::")[1][:6]: line.split()[0]
        for line in done.stdout.splitlines()
        if line.startswith(("PASSED", "FAILED"))
    }
    assert outcome == {
        "Cell 0": "PASSED",
        "Cell 1": "PASSED",
        "Cell 2": "FAILED",
        "Cell 3": "FAILED",
        "Cell 4": "FAILED",
    }, done.stdout
    assert "never run" in done.stdout
