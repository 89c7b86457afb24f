"""A world in which recipes, bench and comparisons take seconds: made motions, small networks."""

from functools import cache

import torch
from made_motion import made_motion

from easytune_lib.data.corpus import Caption, Clip, Corpus
from easytune_lib.metrics.judge import Judge
from easytune_lib.metrics.report import Reference
from easytune_lib.models.mdm import MDM
from easytune_lib.motion.features import to_features
from easytune_lib.motion.skeleton import HUMANML3D
from easytune_lib.rewards.alignment import AlignmentReward
from easytune_lib.rewards.spm import SPM
from easytune_lib.seeding import stream
from easytune_lib.types import Prompts, TextFeatures
from easytune_lib.workbench import PromptSet, Workbench

WIDTH = 384


class StubEncoder:
    """In place of MiniLM: random features of its width, the same for the same caption."""

    name = "stub"

    def encode(self, texts):
        if isinstance(texts, str) or not texts:
            raise ValueError(f"got {texts!r}; expected a list of captions")
        tokens = torch.stack([torch.randn(2, WIDTH, generator=stream(0, text)) for text in texts])
        sentence = torch.nn.functional.normalize(tokens.sum(1), dim=-1)
        return TextFeatures(
            tuple(texts), sentence, tokens, torch.ones(len(texts), 2, dtype=torch.bool)
        )


@cache
def tiny_corpus() -> Corpus:
    """Sixteen pairs of content and style, twelve clips each, of 20 to 40 frames."""
    splits = ["train"] * 8 + ["val"] * 2 + ["test"] * 2
    clips = []
    for pair in range(16):
        label = f"move {pair // 4}|style {pair % 4}"
        said = tuple(Caption(f"a person does {label}, way {way}") for way in range(2))
        features = to_features(made_motion(pair, frames=41))
        for take, split in enumerate(splits):
            part = features[: 20 + 4 * (take % 6)]
            clips.append(Clip(f"{pair:02d}_{take:02d}", split, part, said, label))
    return Corpus("tiny", HUMANML3D, HUMANML3D.fps, tuple(clips))


def words(captions):
    """In place of GloVe."""
    vectors = torch.stack([torch.randn(2, 50, generator=stream(1, text)) for text in captions])
    return vectors, torch.full((len(captions),), 2)


def tiny_bench(n_steps: int = 2, digest: str = "tiny") -> Workbench:
    """Untrained networks of a few thousand weights; the judge's four dimensions need 5 motions."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = MDM(dim=8, layers=1, max_frames=32)
        spm = SPM(dim=8, layers=1, latent=8, max_frames=32, dropout=0.0)
        judge = Judge(embedding=4, width=8, words=words)
    model = network.eval().diffusion(StubEncoder().encode([""]), n_steps, guidance=2.5)
    prompts, ceilings = {}, {"real": {}, "VAE": {}}
    for name, count in (("finetune", 12), ("validation", 8), ("test", 8)):
        texts = [f"{name} {i}" for i in range(count)]
        lengths = 16 + 4 * (torch.arange(count) % 3)
        prompts[name] = PromptSet(Prompts(StubEncoder().encode(texts), lengths), tuple(texts))
        if name != "finetune":
            for kind in ceilings:
                drawn = torch.randn(count, 4, generator=stream(0, name, kind))
                ceilings[kind][name] = torch.nn.functional.normalize(drawn)
    reward = AlignmentReward(spm.eval(), model.schedule)
    references = {split: Reference.of(real) for split, real in ceilings["real"].items()}
    return Workbench("mdm", digest, model, reward, judge.eval(), prompts, references, ceilings)
