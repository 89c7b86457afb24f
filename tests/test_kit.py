"""KIT-ML from its folder to a tuned model that is judged and looked at, with small networks."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from made_motion import made_motion
from tiny_world import StubEncoder

from easytune_lib import recipes, workbench
from easytune_lib.app.cli import main
from easytune_lib.diffusion.rollout import sample
from easytune_lib.finetuning.loop import batches, copy_for_tuning, finetune
from easytune_lib.finetuning.methods import EasyTune
from easytune_lib.motion.features import to_features
from easytune_lib.motion.skeleton import HUMANML3D, KIT, skeleton_of
from easytune_lib.seeding import stream
from easytune_lib.viz.motion import plot_strip
from easytune_lib.viz.player import MotionPlayer
from easytune_lib.workbench import evaluate, make_prompts, motions_of, open_workbench, upper_bound

pytestmark = pytest.mark.slow

CLIPS = {"train": 16, "val": 8, "test": 8}
SMALL = {
    "Judge": {"embedding": 4, "width": 16}, "SPM": {"dim": 32, "layers": 1},
    "MDM": {"dim": 32, "layers": 1}, "VAE": {"dim": 32},
    "LatentDenoiser": {"dim": 32, "layers": 1},
}  # fmt: skip


def smaller(kind, sizes):
    class Smaller(kind):
        def __init__(self, *given, **options):
            super().__init__(*given, **sizes | options)

    Smaller.__name__ = kind.__name__
    return Smaller


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As KIT-ML is distributed; the shortest clips are as short as KIT's may be."""
    root = tmp_path_factory.mktemp("data") / "KIT-ML"
    for name in ("new_joint_vecs", "texts"):
        (root / name).mkdir(parents=True)
    number = 0
    for split, count in CLIPS.items():
        ids = [f"{number + i:05d}" for i in range(count)]
        number += count
        (root / f"{split}.txt").write_text("".join(f"{id}\n" for id in ids))
        for id in ids:
            frames = 25 + 8 * (int(id) % 3)
            np.save(
                root / "new_joint_vecs" / f"{id}.npy",
                to_features(made_motion(int(id), frames, KIT)),
            )
            (root / "texts" / f"{id}.txt").write_text(
                f"a person does {id}.#a/DET person/NOUN#0.0#0.0\n"
            )
    return root


@pytest.fixture(scope="module")
def weights(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Both kinds of base, reward, judge and evaluation, as the command line makes them."""
    out = tmp_path_factory.mktemp("weights")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipes, "MiniLM", StubEncoder)
        patch.setattr(workbench, "MiniLM", StubEncoder)
        for name, sizes in SMALL.items():
            patch.setattr(recipes, name, smaller(getattr(recipes, name), sizes))
        for what in (["base"], ["base", "--base", "mld"], ["base", "--base", "motiondiffuse"],
                     ["reward"], ["judge"], ["evaluation"]):  # fmt: skip
            arguments = ["--data", str(folder), "--out", str(out), "--steps", "2"]
            assert main(["train", *what, *arguments]) == 0
        yield out


def test_the_folder_is_recognised(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["data", "check", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "kit (21 joints), 251 features a frame, 12.5 frames a second" in said
    assert "32 clips usable" in said and "no problems found" in said


@pytest.mark.parametrize("base", ["mdm", "mld", "motiondiffuse"])
def test_it_is_trained_tuned_judged_and_looked_at(weights: Path, base: workbench.Base):
    bench = open_workbench(base, 2, weights=weights)
    assert bench.skeleton is KIT
    assert bench.prompts["test"].prompts.lengths.min() == 24
    model = copy_for_tuning(bench.model)
    optimizer = torch.optim.AdamW(model.denoiser.parameters(), lr=1e-3)
    pool = batches(model, bench.prompts["finetune"].prompts, 4, 0)
    updates = finetune(model, bench.reward, pool, EasyTune(1, "random"), optimizer)
    assert all(np.isfinite(update.reward) for update in islice(updates, 2))
    (found,) = evaluate(bench, model, "test", [0])
    assert all(np.isfinite(value) for value in found.values())
    assert upper_bound(bench, "real", "test")["fid"] == pytest.approx(0, abs=1e-6)
    prompts = make_prompts(["a person waves", "a person walks"], [2.0, 9.0], bench.skeleton)
    assert prompts.lengths.tolist() == [24, 112]
    motions = motions_of(sample(model, prompts, stream(0)), prompts)
    assert [motion.joints.shape[1:] for motion in motions] == [(21, 3)] * 2
    assert [motion.seconds for motion in motions] == pytest.approx([24 / 12.5, 112 / 12.5])
    assert MotionPlayer(motions)._repr_html_() and plot_strip(motions[1]).axes


def test_real_clips_are_shown_in_metres_and_upright(folder: Path):
    rows = torch.from_numpy(np.load(folder / "new_joint_vecs" / "00000.npy"))
    assert 200 < rows[:, KIT.groups["root_height"]].mean() < 2000  # millimetres on disk
    (motion,) = motions_of(rows[None], ask_nothing(len(rows)))
    assert motion.skeleton is KIT and motion.fps == 12.5
    height = motion.joints[:, KIT.index("head"), 1] - motion.joints[:, KIT.index("left_foot"), 1]
    assert 0.5 < height.mean() < 2.5
    span = np.ptp(motion.joints[0], axis=0)
    assert span[1] == span.max()  # y is up


def ask_nothing(frames: int):
    text = StubEncoder().encode(["nothing"])
    return workbench.Prompts(text, torch.tensor([frames]))


@pytest.mark.parametrize(("seconds", "skeleton"), [(0.5, KIT), (10.5, KIT), (6.5, HUMANML3D)])
def test_lengths_that_the_models_never_saw_are_refused(seconds: float, skeleton):
    with pytest.raises(ValueError, match=r"motions are 1 to (10\.24|6\.4) s long"):
        make_prompts(["a person waves"], seconds, skeleton)


def test_a_width_of_no_skeleton_is_refused():
    assert skeleton_of(263) is HUMANML3D and skeleton_of(251) is KIT
    with pytest.raises(ValueError, match=r"one of \[251, 263\] numbers a frame, got 200"):
        skeleton_of(200)
