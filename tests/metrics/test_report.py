from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from easytune_lib.metrics.judge import Judge
from easytune_lib.metrics.report import (
    Reference,
    Scores,
    embed_motions,
    evaluate,
    score,
)
from easytune_lib.seeding import stream
from easytune_lib.types import Prompts, TextFeatures

COUNT, DIM = 80, 8


def letters(captions: Sequence[str]) -> tuple[Tensor, Tensor]:
    """One made-up word a caption."""
    rows = [torch.randn(1, 50, generator=stream(0, caption)) for caption in captions]
    return torch.stack(rows), torch.ones(len(rows), dtype=torch.int64)


@pytest.fixture(scope="module")
def judge() -> Judge:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Judge(embedding=DIM, width=16, words=letters).eval()


def made(count: int = COUNT) -> tuple[Tensor, Prompts, list[str]]:
    rng = stream(1, "motions")
    lengths = 4 * torch.randint(3, 8, (count,), generator=rng)
    texts = tuple(f"caption {i}" for i in range(count))
    tokens, words = torch.zeros(count, 1, 1), torch.ones(count, 1, dtype=torch.bool)
    prompts = Prompts(TextFeatures(texts, torch.zeros(count, 1), tokens, words), lengths)
    motion = torch.randn(count, prompts.frames, 263, generator=rng) * prompts.mask[..., None]
    return motion, prompts, [f"label {i}" for i in range(count)]


def unit(count: int, seed: int = 0) -> Tensor:
    x = torch.randn(count, DIM, generator=stream(seed, "unit"))
    return torch.nn.functional.normalize(x, dim=1)


def test_perfect_motions_get_perfect_scores():
    x = unit(COUNT)
    scores = score(x, x, [str(i) for i in range(COUNT)], Reference.of(x), stream(0))
    assert scores == Scores(1.0, 1.0, 1.0, 0.0, scores.fid, scores.diversity)
    assert scores.fid == pytest.approx(0, abs=1e-10)
    assert 1.2 < scores.diversity < 1.5  # random directions are about sqrt(2) apart


def test_evaluation_repeats_and_is_finite(judge):
    motion, prompts, labels = made()
    reference = Reference.of(embed_motions(judge, motion, prompts.lengths))
    first, again, other = (
        evaluate(judge, motion, prompts, labels, reference, stream(seed)) for seed in (0, 0, 1)
    )
    assert first == again != other
    assert all(np.isfinite(value) for value in vars(first).values())
    assert first.r1 <= first.r2 <= first.r3 and 0 <= first.mm_dist <= 2
    assert first.fid == pytest.approx(0, abs=1e-8)
    assert first.foot_skate is not None and 0 <= first.foot_skate <= 1
    assert not motion.requires_grad and first.jerk is not None and first.jerk > 0


def test_evaluation_is_the_score_of_the_judges_embeddings(judge):
    motion, prompts, labels = made()
    embedded = embed_motions(judge, motion, prompts.lengths)
    reference = Reference.of(unit(COUNT))
    whole = evaluate(judge, motion, prompts, labels, reference, stream(0))
    text = judge.embed_text(prompts.texts)
    parts = score(text, embedded, labels, reference, stream(0))
    for name in ("r1", "r2", "r3", "mm_dist", "fid", "diversity"):
        assert getattr(whole, name) == getattr(parts, name)
    assert parts.foot_skate is None and parts.jerk is None


def test_repeated_labels_captions_and_the_published_protocol(judge):
    motion, prompts, labels = made()
    reference = Reference.of(unit(COUNT))
    few = [f"label {i % 20}" for i in range(COUNT)]
    with pytest.raises(ValueError, match="32 distinct labels, there are 20"):
        evaluate(judge, motion, prompts, few, reference, stream(0))
    by_caption = evaluate(judge, motion, prompts, few, reference, stream(0), distinct="caption")
    anything = evaluate(judge, motion, prompts, few, reference, stream(0), distinct="none")
    assert by_caption == anything == evaluate(judge, motion, prompts, labels, reference, stream(0))


def test_what_cannot_be_judged_is_refused(judge):
    motion, prompts, labels = made()
    reference = Reference.of(unit(COUNT))
    with pytest.raises(ValueError, match=r'3 prompts have no label: .*distinct="caption"'):
        evaluate(judge, motion, prompts, ["", "", "", *labels[3:]], reference, stream(0))
    with pytest.raises(ValueError, match="79 motions, 80 prompts"):
        evaluate(judge, motion[1:].clone(), prompts, labels, reference, stream(0))
    broken = motion.clone()
    broken[5, 2, 10] = torch.nan
    with pytest.raises(ValueError, match=r"motion embeddings \[5\] hold NaN"):
        evaluate(judge, broken, prompts, labels, reference, stream(0))
    judge.train()
    try:
        with pytest.raises(ValueError, match="training mode"):
            evaluate(judge, motion, prompts, labels, reference, stream(0))
    finally:
        judge.eval()


def test_a_reference_comes_back_bit_for_bit(tmp_path):
    x = unit(COUNT)
    reference = Reference.of(x)
    path = reference.save(tmp_path / "reference.safetensors")
    assert path.stat().st_size < 2000
    again = Reference.load(path)
    assert torch.equal(again.mean, reference.mean) and again.mean.dtype == torch.float64
    assert torch.equal(again.covariance, reference.covariance) and again.count == COUNT
    y = unit(COUNT, seed=1)
    assert again.fid(y) == reference.fid(y) > 0


def test_a_judge_is_no_reference(tmp_path, judge):
    with pytest.raises(ValueError, match="no reference"):
        Reference.load(judge.save(tmp_path / "judge.safetensors"))
    with pytest.raises(ValueError, match="at least 9 motions, got 8"):
        Reference.of(unit(8))
