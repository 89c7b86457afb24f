from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from easytune_lib.data.corpus import Caption, Clip
from easytune_lib.metrics.judge import WORD_DIM, Judge, false_negatives, judge_objective
from easytune_lib.seeding import stream
from easytune_lib.storage import save_tensors
from easytune_lib.training import TrainingPlan, train


@cache
def vector(word: str) -> Tensor:
    return torch.randn(WORD_DIM, generator=stream(0, word))


def hashed_words(captions: Sequence[str]) -> tuple[Tensor, Tensor]:
    """A made-up vector a word, so that no word vectors need to be read."""
    found = [torch.stack([vector(word) for word in c.split()]) for c in captions]
    lengths = torch.tensor([len(vectors) for vectors in found])
    return torch.nn.utils.rnn.pad_sequence(found, batch_first=True), lengths


def small_judge(seed: int = 0, **sizes: int) -> Judge:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Judge(**{"embedding": 16, "width": 24} | sizes, words=hashed_words).eval()


def motions(*lengths: int, features: int = 263) -> tuple[Tensor, Tensor]:
    rng = stream(3, "motions")
    rows = [torch.randn(n, features, generator=rng) for n in lengths]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), torch.tensor(lengths)


def made_clips(labels: int = 8, each: int = 6) -> list[Clip]:
    """A label shifts a few features and has a word of its own."""
    rng = np.random.default_rng(0)
    shifts = rng.normal(size=(labels, 263))
    clips = []
    for i in range(labels * each):
        label = i % labels
        frames = int(rng.integers(20, 41))
        x = rng.normal(size=(frames, 263)) + shifts[label]
        caption = Caption(f"a person does thing{label}")
        clips.append(
            Clip(str(i), "train", x.astype(np.float32), (caption,), label=f"thing{label}|plain")
        )
    return clips


def test_it_is_small_and_embeds_on_the_unit_sphere():
    judge = Judge()
    assert 0.3e6 < sum(p.numel() for p in judge.parameters()) < 0.45e6
    judge.eval().words = hashed_words
    for z in (judge.embed_motion(*motions(8, 40)), judge.embed_text(["a walk", "run"])):
        assert z.shape == (2, 64) and z.dtype == torch.float32
        assert torch.allclose(z.norm(dim=1), torch.ones(2))


@torch.no_grad()
def test_padding_changes_nothing():
    judge = small_judge()
    judge.mean.add_(0.5)  # so that zero padding is not zero once normalised
    motion, lengths = motions(8, 40, 24)
    together = judge.embed_motion(motion, lengths)
    for row, length in enumerate(lengths.tolist()):
        alone = judge.embed_motion(motion[row : row + 1, :length], lengths[row : row + 1])
        assert torch.allclose(alone[0], together[row], atol=1e-6)
    dirty = motion.clone()
    dirty[torch.arange(40) >= lengths[:, None]] = torch.nan
    assert torch.allclose(judge.embed_motion(dirty, lengths), together, atol=1e-6)
    longer = torch.nn.functional.pad(motion, (0, 0, 0, 7))
    assert torch.allclose(judge.embed_motion(longer, lengths), together, atol=1e-6)
    texts = ["a person walks in a circle", "run"]
    assert torch.allclose(judge.embed_text(texts)[1], judge.embed_text(["run"])[0], atol=1e-6)


@torch.no_grad()
def test_every_frame_and_every_word_counts():
    judge = small_judge()
    motion, lengths = motions(16)
    origin = judge.embed_motion(motion, lengths)
    for frame in range(16):
        moved = motion.clone()
        moved[0, frame] += 1
        assert (judge.embed_motion(moved, lengths) - origin).abs().max() > 1e-5
    said = judge.embed_text(["one two three", "three two one", "one two", "one one three"])
    assert torch.cdist(said, said)[~torch.eye(4, dtype=torch.bool)].min() > 1e-3


@torch.no_grad()
def test_contacts_and_rotations_are_not_read():
    judge = small_judge()
    motion, lengths = motions(12)
    changed = motion.clone()
    changed[..., 67:193] = 9.0  # rotations of 21 joints
    changed[..., -4:] = 9.0
    assert torch.equal(judge.embed_motion(changed, lengths), judge.embed_motion(motion, lengths))
    assert len(judge.columns) == 4 + 21 * 3 + 22 * 3
    assert len(Judge(features=251).columns) == 4 + 20 * 3 + 21 * 3


def test_statistics_make_units_irrelevant():
    judge, other = small_judge(), small_judge()
    motion, lengths = motions(12, 8)
    other.mean.fill_(3.0)
    other.std.fill_(2.0)
    expected = judge.embed_motion(motion, lengths)
    assert torch.allclose(other.embed_motion(motion * 2 + 3, lengths), expected, atol=1e-5)


def test_half_precision_weights_as_the_recipes_ship_them_are_widened(tmp_path):
    judge = small_judge()
    half = {name: value.half() for name, value in judge.state_dict().items()}
    path = save_tensors(tmp_path / "judge.safetensors", half, {"network": judge.config})
    again, pair = Judge.load(path), motions(12, 8)
    assert all(p.dtype == torch.float32 for p in again.parameters())
    assert torch.allclose(again.embed_motion(*pair), judge.embed_motion(*pair), atol=0.01)


def test_training_separates_eight_labels():
    clips = made_clips()
    judge = small_judge()
    objective = judge_objective(judge, clips, batch_size=32)
    plan = TrainingPlan("judge", steps=30, lr=5e-3, warmup=5, ema=0.0)
    steps = list(train(judge, objective, plan))
    assert steps[-1].loss < 0.6 * steps[0].loss
    assert set(steps[-1].parts) == {"top1"}
    held = made_clips(each=7)[-8:]  # clips that training did not see
    motion = torch.nn.utils.rnn.pad_sequence(
        [torch.from_numpy(clip.features) for clip in held], batch_first=True
    )
    lengths = torch.tensor([len(clip) // 4 * 4 for clip in held])
    text = judge.embed_text([clip.captions[0].text for clip in held])
    nearest = torch.cdist(text, judge.embed_motion(motion, lengths)).argmin(dim=1)
    assert nearest.tolist() == list(range(8))


def test_the_objective_depends_on_its_generator_alone():
    judge = small_judge()
    objective = judge_objective(judge, made_clips(), batch_size=8)
    losses = [objective(stream(seed, "batch"))[0].item() for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


def test_rare_labels_are_drawn_more_often_than_their_share(monkeypatch):
    """100 clips of one label, 1 of another, 4 unknown: weights 10, 1 and 4 of 15."""
    clips = made_clips(labels=1, each=105)
    labels = ["common"] * 100 + ["rare"] + [""] * 4
    clips = [
        Clip(c.id, c.split, c.features, (Caption(f"{label or c.id} x"),), label)
        for c, label in zip(clips, labels, strict=True)
    ]
    seen: list[str] = []
    monkeypatch.setattr(
        "easytune_lib.metrics.judge.false_negatives",
        lambda labels, texts: seen.extend(labels) or false_negatives(labels, texts),
    )
    judge_objective(small_judge(), clips, batch_size=600, max_frames=4)(stream(0, "draw"))
    share = {label: seen.count(label) / 600 for label in ("common", "rare", "")}
    assert share == pytest.approx({"common": 10 / 15, "rare": 1 / 15, "": 4 / 15}, abs=0.06)


def test_false_negatives_share_a_known_label_or_a_caption():
    wrong = false_negatives(["a", "a", "b", "", ""], ["1", "2", "2", "3", "4"])
    assert wrong.nonzero().tolist() == [[0, 1], [1, 0], [1, 2], [2, 1]]


def test_masked_pairs_do_not_push():
    """Two clips of one label and nothing else: there is nothing to tell apart."""
    objective = judge_objective(small_judge(), made_clips(labels=1, each=2), batch_size=4)
    assert objective(stream(0, "one label"))[0].item() == 0


@pytest.mark.parametrize("lengths", [[0, 8], [8, 6], [8, 12]])
def test_lengths_that_do_not_fit_are_named(lengths):
    with pytest.raises(ValueError, match="multiples of 4"):
        small_judge().embed_motion(torch.zeros(2, 8, 263), torch.tensor(lengths))


def test_what_cannot_be_judged_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\[251, 263\]"):
        Judge(features=66)
    with pytest.raises(ValueError, match="at least 2 clips"):
        judge_objective(small_judge(), made_clips(1, 1))
    with pytest.raises(ValueError, match="readable"):
        Judge.load(tmp_path / "none.safetensors")
