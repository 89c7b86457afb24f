import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from easytune_lib import recipes
from easytune_lib.app import runner
from easytune_lib.app.cli import main
from easytune_lib.distributed import own_device
from easytune_lib.training import TrainingStep

ROOT = Path(__file__).parents[2]


def test_help_is_quick_and_imports_nothing_heavy():
    code = (
        "import sys; from easytune_lib.app.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'numpy', 'papermill', 'nbformat', 'yaml'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    lines = done.stdout.splitlines()
    assert lines[-1] == "[]"
    for command in (
        "reproduce",
        "run",
        "data",
        "train",
        "checkpoint",
        "weights",
        "doctor",
    ):
        assert any(line.strip().startswith(command) for line in lines)


def test_each_subcommand_says_what_it_takes(capsys: pytest.CaptureFixture[str]):
    files = ["checkpoint", "inspect"], ["checkpoint", "convert"], ["weights", "get"]
    for command in (
        ["reproduce"],
        ["run"],
        ["data", "check"],
        ["data", "get"],
        ["data", "import"],
        ["train"],
        ["doctor"],
        *files,
    ):
        with pytest.raises(SystemExit) as ended:
            main([*command, "--help"])
        assert ended.value.code == 0
    assert "--size" in capsys.readouterr().out


def test_reproduce_and_run_pass_on_what_they_are_given(monkeypatch: pytest.MonkeyPatch):
    calls = []
    monkeypatch.setattr(runner, "reproduce", lambda *a: calls.append(a) or 0)
    monkeypatch.setattr(runner, "run_notebook", lambda *a: calls.append(a) or 1)
    assert main(["reproduce", "--size", "full", "--force", "--only", "01", "--only", "02"]) == 0
    assert main(["run", "03", "-p", "k", "3", "-p", "name", "007", "--inplace"]) == 1
    assert calls == [
        ("full", True, ["01", "02"]),
        ("03", [["k", "3"], ["name", "007"]], "laptop", False, True),
    ]


def test_errors_are_one_line_and_misuse_is_2(capsys: pytest.CaptureFixture[str]):
    assert main(["run", "no_such_notebook"]) == 2
    assert main(["data", "check", "no/such/folder"]) == 2
    assert main(["reproduce", "--size", "huge"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and all(line.startswith("error: ") for line in lines)
    assert "size is one of laptop, full, paper, paper/" in lines[2]
    with pytest.raises(SystemExit) as ended:
        main(["reproduce", "--quickly"])
    assert ended.value.code == 2


def test_an_interrupt_ends_cleanly(monkeypatch: pytest.MonkeyPatch, capsys):
    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "reproduce", interrupted)
    before = signal.getsignal(signal.SIGINT)
    assert main(["reproduce"]) == 130
    assert signal.signal(signal.SIGINT, before) == signal.SIG_DFL, "a second one ends it at once"
    assert capsys.readouterr().err == "\ninterrupted; what was done stays done\n"


class Recipes:
    """Stands in for the recipes; a step a call."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.calls: list[tuple[str, ...]] = []
        self.options: dict[str, object] = {}
        for name in ("train_base", "train_reward", "train_judge"):
            monkeypatch.setattr(recipes, name, self.recipe(name))

    def recipe(self, name: str):
        def train(*args: str, **options: object) -> Iterator[TrainingStep]:
            self.calls.append((name, *args))
            assert options.pop("device") == own_device()
            self.options = options
            for step in (1, 2):
                yield TrainingStep(step, 2, 0.5, {}, 1.0, step * 60.0, 60.0)

        return train


def test_training_reports_its_steps(monkeypatch, capsys, tmp_path: Path):
    recipe = Recipes(monkeypatch)
    out = ["--out", str(tmp_path)]
    assert main(["train", "reward", "--data", "folder", "--steps", "2", "--seed", "5", *out]) == 0
    assert recipe.calls == [("train_reward", "folder")]
    want = {"out": tmp_path, "steps": 2, "on_problem": "raise", "seed": 5, "noise": "features"}
    assert recipe.options == want | {"buckets": 1, "precision": "float32", "accumulate": 1}
    main(["train", "reward", "--buckets", "8", "--precision", "bf16", *out])
    assert (recipe.options["buckets"], recipe.options["precision"]) == (8, "bf16")
    lines = capsys.readouterr().out.splitlines()
    assert "spm: step 2 of 2, loss 0.5000, 60.00 s a step, about 0 s left" in lines
    assert lines[-1] == f"spm: {tmp_path / 'spm.safetensors'}"


def test_mld_is_trained_on_a_vae_that_is_trained_once(monkeypatch, capsys, tmp_path: Path):
    recipe = Recipes(monkeypatch)
    assert main(["train", "base", "--base", "mld", "--out", str(tmp_path), "--skip-bad"]) == 0
    assert [call[1] for call in recipe.calls] == ["vae", "mld"]
    how = {"precision": "float32", "accumulate": 1}
    assert recipe.options == how | {"out": tmp_path, "steps": None, "on_problem": "skip"}
    (tmp_path / "vae.safetensors").touch()
    main(["train", "base", "--base", "mld_early", "--out", str(tmp_path)])
    assert [call[1] for call in recipe.calls] == ["vae", "mld", "mld_early"]


@pytest.mark.parametrize(
    ("base", "trained"),
    [
        ("motionlcm", ["mld", "motionlcm"]), ("mldpp", ["mldpp_vae", "mldpp"]),
        ("motiondiffuse", ["motiondiffuse"]),
    ],
)  # fmt: skip
def test_what_a_base_needs_is_trained_first(monkeypatch, tmp_path: Path, base, trained):
    recipe = Recipes(monkeypatch)
    (tmp_path / "vae.safetensors").touch()
    (tmp_path / f"{base}.safetensors").touch()  # what was asked for is trained again
    assert main(["train", "base", "--base", base, "--out", str(tmp_path)]) == 0
    assert [call[1] for call in recipe.calls] == trained


def test_what_was_left_of_a_run_is_not_used_unasked(monkeypatch, capsys, tmp_path: Path):
    recipe = Recipes(monkeypatch)
    state = tmp_path / "training" / "judge.safetensors"
    state.parent.mkdir(exist_ok=True)
    state.touch()
    assert main(["train", "judge", "--out", str(tmp_path)]) == 2
    assert "--resume" in capsys.readouterr().err and not recipe.calls
    assert main(["train", "judge", "--out", str(tmp_path), "--resume"]) == 0
    assert recipe.calls == [("train_judge", "synthetic")]


def test_steps_are_positive(capsys: pytest.CaptureFixture[str]):
    for steps in ("0", "-3", "many"):
        with pytest.raises(SystemExit):
            main(["train", "base", "--steps", steps])
    assert "invalid" in capsys.readouterr().err


def test_data_check_counts_and_fails_where_something_is_broken(tmp_path: Path, capsys):
    for folder in ("texts", "new_joint_vecs"):
        (tmp_path / folder).mkdir()
    for clip in ("000001", "000002"):
        (tmp_path / "texts" / f"{clip}.txt").write_text("a person walks#a/DET#0.0#0.0\n")
        np.save(tmp_path / "new_joint_vecs" / f"{clip}.npy", np.zeros((60, 263), np.float32))
    (tmp_path / "train.txt").write_text("000001\n000002\n")
    assert main(["data", "check", str(tmp_path)]) == 0
    assert "2 clips usable" in capsys.readouterr().out
    (tmp_path / "new_joint_vecs" / "000002.npy").write_bytes(b"")
    assert main(["data", "check", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "1 clips usable" in said and "000002.npy" in said
