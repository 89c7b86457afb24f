"""With real kernels: what is killed in the middle is run again, what is done stays done."""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from tiny_notebook import notebook, write

from easytune_lib.app import runner
from easytune_lib.app.execute import cores
from easytune_lib.app.progress import Progress

ROOT = Path(__file__).parents[2]
DRIVER = """
import sys
from pathlib import Path
from easytune_lib.app import runner
runner.LIBRARY = Path("no library, since that may be edited meanwhile")
if __name__ == "__main__":
    runner.reproduce(root=Path(sys.argv[1]))
"""
FIRST = """\
import os
from pathlib import Path
print(Path.cwd().name, os.environ["OMP_NUM_THREADS"])
fill = b"x" * 150_000_000
Path("../figures").mkdir(exist_ok=True)
_ = Path("../figures/first.json").write_text('{"runs": ["r"], "caption": "c"}')
"""
SECOND = """\
import os, time
from pathlib import Path
with Path("../begun").open("a") as begun:
    _ = begun.write(f"{os.getpid()}\\n")
while not Path("../go").exists():
    time.sleep(0.05)
"""


class Story(NamedTuple):
    root: Path
    kernel_gone: bool
    left: list[str]  # files in outputs/laptop after the kill
    first_written: int  # when the first output was written
    code: int
    text: str


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """Three notebooks; the runner is killed in the second, then started again."""
    root = tmp_path_factory.mktemp("repository")
    write(root, "00_first", notebook(FIRST))
    write(root, "01_second", notebook(SECOND))
    write(root, "02_third", notebook("raise ValueError('no <b>luck</b>')", "print('not reached')"))
    (root / "driver.py").write_text(DRIVER)
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    killed = subprocess.Popen(
        [sys.executable, str(root / "driver.py"), str(root)],
        env=environment | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
    )
    assert until(lambda: (root / "begun").exists() and (root / "begun").read_text(), 300)
    kernel = int((root / "begun").read_text())
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    gone = until(lambda: not Path(f"/proc/{kernel}").exists(), 60)
    outputs = root / "outputs/laptop"
    left = sorted(path.name for path in outputs.iterdir())
    written = (outputs / "00_first.ipynb").stat().st_mtime_ns

    (root / "go").touch()
    stream = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "LIBRARY", Path("no library, since that may be edited meanwhile"))
        code = runner.reproduce(root=root, progress=Progress(stream))
    return Story(root, gone, left, written, code, stream.getvalue())


def until(condition, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.slow
def test_a_kill_takes_the_kernel_along_and_leaves_nothing_that_looks_whole(story: Story):
    assert story.kernel_gone
    assert "01_second.ipynb" not in story.left and "01_second.json" not in story.left
    assert {"00_first.ipynb", "00_first.html", "00_first.json"} <= set(story.left)


def test_what_was_done_before_the_kill_stays_done(story: Story):
    assert "[1/3] 00_first: done before" in story.text
    output = story.root / "outputs/laptop/00_first.ipynb"
    assert output.stat().st_mtime_ns == story.first_written


def test_what_was_killed_is_run_from_its_beginning(story: Story):
    assert len((story.root / "begun").read_text().split()) == 2
    assert (story.root / "outputs/laptop/01_second.ipynb").exists()
    assert not list((story.root / "outputs/laptop").glob("01_second.partial*"))


def test_a_failing_cell_is_told_in_one_paragraph_without_colours(story: Story):
    assert story.code == 1
    (told,) = [line for line in story.text.splitlines() if "FAILED" in line]
    assert "cell 2 of 3 (`raise ValueError('no <b>luck</b>')`): ValueError: no <b>luck" in told
    assert "\x1b" not in told
    assert not (story.root / "outputs/laptop/02_third.ipynb").exists()
    assert "not reached\n" not in (story.root / "outputs/laptop/02_third.failed.ipynb").read_text()


def test_a_kernel_runs_in_its_folder_with_all_cores(story: Story):
    text = (story.root / "outputs/laptop/00_first.ipynb").read_text()
    assert f"notebooks {cores()}\\n" in text


def test_the_peak_is_the_kernels_and_figures_are_counted(story: Story):
    row = next(line for line in story.text.splitlines() if line.startswith("00_first ")).split()
    assert 180 < int(row[2]) < 600  # 150 MB more than an idle kernel's
    assert row[3] == "first"


def test_no_noise_of_the_kernel_is_left(story: Story):
    for log in (story.root / "outputs/laptop").glob("*.log"):
        said = log.read_text().rstrip()
        late = said.endswith("Socket operation on non-socket")  # ipykernel, when it is shut down
        assert not said or late, said
