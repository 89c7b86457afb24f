"""The bench that every notebook opens: a base model, the reward, the judge, and prompts."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from easytune_lib.choices import check_choice
from easytune_lib.diffusion.model import MotionDiffusion
from easytune_lib.diffusion.rollout import sample
from easytune_lib.diffusion.schedule import NoiseSchedule
from easytune_lib.metrics import report
from easytune_lib.metrics.distribution import multimodality
from easytune_lib.metrics.intervals import bootstrap
from easytune_lib.metrics.judge import Judge
from easytune_lib.metrics.report import Reference, embed_motions, score
from easytune_lib.metrics.retrieval import r_precision
from easytune_lib.models.mdm import MDM
from easytune_lib.models.mld import VAE, GuidedDenoiser, LatentDenoiser, mld, motionlcm
from easytune_lib.models.motiondiffuse import MotionDiffuse
from easytune_lib.motion.features import to_motion
from easytune_lib.motion.motion import Motion
from easytune_lib.motion.skeleton import HUMANML3D, Skeleton, skeleton_of
from easytune_lib.recipes import MAX_FRAMES, REWARDS, VAES, RewardNoise, load_network
from easytune_lib.rewards.alignment import AlignmentReward
from easytune_lib.rewards.spm import SPM
from easytune_lib.seeding import stream
from easytune_lib.storage import load_tensors, weights_folder
from easytune_lib.text.cache import CachedEncoder
from easytune_lib.text.encoders import MiniLM
from easytune_lib.types import Denoiser, Prompts, Reward, TextFeatures

Base = Literal["mdm", "mld", "mld_early", "mldpp", "motionlcm", "motiondiffuse"]

WEIGHTS = weights_folder()
TRAINED_BY = {  # what writes a file: arguments of `easytune train`
    "mdm": "base", "vae": "base --base mld", "mld": "base --base mld",
    "mld_early": "base --base mld_early", "mldpp_vae": "base --base mldpp",
    "mldpp": "base --base mldpp", "motionlcm": "base --base motionlcm",
    "motiondiffuse": "base --base motiondiffuse",
    "spm": "reward", "spm_latent": "reward --noise latent",
    "spm_clean": "reward --noise clean", "judge": "judge",
    "evaluation": "evaluation",
}  # fmt: skip


@dataclass(frozen=True)
class PromptSet:
    """Prompts with the labels that tell false negatives apart (``""`` where unknown)."""

    prompts: Prompts
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.prompts)

    def first(self, count: int) -> "PromptSet":
        """A spread of at most ``count`` prompts over the whole set; 0 keeps all."""
        rows = self.spread(count)
        if len(rows) == len(self):
            return self
        return PromptSet(self.prompts[rows], tuple(self.labels[i] for i in rows))

    def spread(self, count: int) -> list[int]:
        """The rows that :meth:`first` keeps."""
        kept = min(count or len(self), len(self))
        return np.linspace(0, len(self) - 1, kept).round().astype(int).tolist()


@dataclass(frozen=True)
class Workbench:
    """What is compared is compared on one bench.

    >>> bench.base, sorted(bench.prompts)
    ('mld_early', ['finetune', 'test', 'unseen', 'validation'])
    """

    base: Base
    digest: str  # of all files it was read from
    model: MotionDiffusion
    reward: Reward
    judge: Judge
    prompts: dict[str, PromptSet]  # finetune, validation, test, unseen
    references: dict[str, Reference]  # real motion of validation, test and unseen, as judged
    upper_bounds: dict[str, dict[str, Tensor]]  # of "real" and "VAE" motion, by split

    @property
    def skeleton(self) -> Skeleton:
        """Of all its motions: HumanML3D's, or KIT's where the networks were trained on that."""
        return self.judge.skeleton

    def sample(
        self, prompts: Prompts | Sequence[str], *, seconds: float = 5.0, seed: int = 0
    ) -> list[Motion]:
        """Generate one motion a prompt with the bench's model.

        Args:
            prompts: Captions, or prompts that say how long each motion is.
            seconds: Length of the motions of captions, 1 to 6.4 s.
            seed: Of the noise; equal seeds and prompts have equal noise in every model.
        """
        return generate(self.model, prompts, self.skeleton, seconds=seconds, seed=seed)

    def with_model(self, model: MotionDiffusion | Denoiser) -> "Workbench":
        """The same bench around another model: prompts, reward and judge stay.

        Args:
            model: A whole model, or a denoiser that takes the place of the bench's own and is
                sampled with its schedule, guidance and decoder.

        Raises:
            ValueError: The model decodes to motions of another width than the bench's.
        """
        if isinstance(model, Denoiser):
            model = replace(self.model, denoiser=model)
        asked = self.prompts["validation"].prompts[[0]]
        with torch.no_grad():
            made = model.decode(model.draw_noise(asked, stream(0, "with_model")), asked)
        if made.shape[-1] != self.skeleton.n_features:
            raise ValueError(
                f"the model decodes to {made.shape[-1]} features a frame, the bench's reward and "
                f"judge read {self.skeleton.n_features}: give a decoder that ends in those"
            )
        weights = hashlib.sha256(self.digest.encode())
        for name, value in model.denoiser.state_dict().items():
            weights.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
        return replace(self, model=model, digest=weights.hexdigest()[:12])


def generate(
    model: MotionDiffusion,
    prompts: Prompts | Sequence[str],
    skeleton: Skeleton = HUMANML3D,
    *,
    seconds: float = 5.0,
    seed: int = 0,
) -> list[Motion]:
    """Generate one motion a prompt; arguments as of :meth:`Workbench.sample`.

    Raises:
        ValueError: There are no captions, or a lone string; a length is out of range.
    """
    if not isinstance(prompts, Prompts):
        prompts = make_prompts(prompts, seconds, skeleton)
    return motions_of(sample(model, prompts, stream(seed, "sample")), prompts)


def open_workbench(
    base: Base = "mdm",
    n_steps: int = 20,
    guidance: float | None = None,
    weights: Path = WEIGHTS,
    reward: RewardNoise = "features",
) -> Workbench:
    """Load the laptop's networks; nothing is downloaded and no data set is needed.

    >>> et.open_workbench("mld_early", n_steps=4).model.n_steps
    4

    Args:
        base: ``mdm`` and ``motiondiffuse`` diffuse features, ``mld`` the latent of a VAE and
            ``mldpp`` eight of them; ``motionlcm`` is ``mld`` distilled to a few steps, and
            ``mld_early`` is ``mld`` stopped early, a weak base.
        n_steps: Sampling steps, and so the steps that fine-tuning sees.
        guidance: Classifier-free guidance; where ``None``, 2.5 for mdm, none for motiondiffuse,
            and 5 for the others.
        weights: A folder as ``easytune train`` writes it.
        reward: What the reward learned to read through; see ``train_reward``.

    Raises:
        ValueError: ``base`` is unknown; a file is missing or does not fit; says which.
    """
    digest = weights_digest(base, weights, reward)
    encoder = CachedEncoder(MiniLM())
    no_text = encoder.encode([""])
    model = _open_base(base, weights, no_text, n_steps, guidance)
    prompts, ceilings = read_evaluation(weights, encoder)
    return Workbench(
        base,
        digest,
        model,
        open_reward(reward, model.schedule, weights),
        load_network(Judge, weights / "judge.safetensors"),
        prompts,
        {split: Reference.of(real) for split, real in ceilings["real"].items()},
        ceilings,
    )


def open_reward(
    noise: RewardNoise, schedule: NoiseSchedule, weights: Path = WEIGHTS
) -> AlignmentReward:
    """Load the reward that learned to read through this kind of noise.

    Args:
        noise: "features", "latent" or "clean".
        schedule: Of the model whose motions are scored: it says how noisy a step is.
        weights: A folder as ``easytune train`` writes it.
    """
    check_choice("reward", noise, RewardNoise)
    file = weights / f"{REWARDS[noise]}.safetensors"
    return AlignmentReward(load_network(SPM, file), schedule)


def _open_base(
    base: Base, weights: Path, no_text: TextFeatures, n_steps: int, guidance: float | None
) -> MotionDiffusion:
    """The network and, where it diffuses latents, its VAE, with the sampler of its kind."""
    kinds = {"mdm": MDM, "motiondiffuse": MotionDiffuse, "motionlcm": GuidedDenoiser}
    denoiser = load_network(kinds.get(base, LatentDenoiser), weights / f"{base}.safetensors")
    if base == "mdm":
        return denoiser.diffusion(no_text, n_steps, 2.5 if guidance is None else guidance)
    if base == "motiondiffuse":
        scale = 1.0 if guidance is None else guidance
        return denoiser.diffusion(no_text, n_steps, scale, sampler="DDPM")
    vae = load_network(VAE, weights / f"{VAES[base]}.safetensors")
    combine = motionlcm if base == "motionlcm" else mld
    return combine(vae, denoiser, no_text, n_steps, 5.0 if guidance is None else guidance)


def weights_digest(base: str, weights: Path = WEIGHTS, reward: RewardNoise = "features") -> str:
    """Which weights, reward, judge and prompts results belong to: 12 hex digits.

    Raises:
        ValueError: ``base`` is unknown, or files are missing; says which, and what writes them.
    """
    if base not in get_args(Base):
        raise ValueError(f"base is one of {', '.join(get_args(Base))}, got {base!r}")
    check_choice("reward", reward, RewardNoise)
    vae = [VAES[base]] if base in VAES else []
    files = {
        name: weights / f"{name}.safetensors"
        for name in [*vae, base, REWARDS[reward], "judge", "evaluation"]
    }
    if missing := [name for name, file in files.items() if not file.is_file()]:
        commands = dict.fromkeys(f"`easytune train {TRAINED_BY[name]}`" for name in missing)
        raise ValueError(
            f"missing {', '.join(str(files[name]) for name in missing)}: give `weights` a folder "
            f"that has all of them, or train with --out {weights}: {', '.join(commands)}"
        )
    content = b"".join(file.read_bytes() for file in files.values())
    return hashlib.sha256(content).hexdigest()[:12]


def make_prompts(
    texts: Sequence[str],
    seconds: float | Sequence[float] = 5.0,
    skeleton: Skeleton = HUMANML3D,
) -> Prompts:
    """Prompts of your own; lengths are rounded to the unit of 4 frames.

    >>> et.make_prompts(["a person walks."], 2.0).lengths.tolist()
    [40]

    Args:
        texts: Captions, in English.
        seconds: Length of the motions, 1 to 6.4 s (KIT: 10.24 s), one for all or one each.
        skeleton: Says how long a frame lasts: ``bench.skeleton``.

    Raises:
        ValueError: There are no captions, or a lone string; lengths are too few, too many or
            out of range.
    """
    wanted = [seconds] * len(texts) if isinstance(seconds, int | float) else list(seconds)
    if len(wanted) != len(texts):
        raise ValueError(f"{len(texts)} captions need as many lengths, got {len(wanted)}")
    longest = MAX_FRAMES / skeleton.fps
    if bad := [s for s in wanted if not 1 <= s <= longest]:
        raise ValueError(f"motions are 1 to {longest:g} s long, got {bad}")
    frames = torch.tensor([round(s * skeleton.fps / 4) * 4 for s in wanted])
    return Prompts(CachedEncoder(MiniLM()).encode(texts), frames)


def motions_of(features: Float[Tensor, "batch frames features"], prompts: Prompts) -> list[Motion]:
    """Features as motions that can be looked at, each cut to its length.

    Raises:
        ValueError: They are neither HumanML3D's nor KIT's.
    """
    skeleton = skeleton_of(features.shape[2])
    return [
        to_motion(row[:length], skeleton, text)
        for row, length, text in zip(features, prompts.lengths.tolist(), prompts.texts, strict=True)
    ]


def evaluate(
    bench: Workbench,
    model: MotionDiffusion,
    split: str,
    noise_seeds: Sequence[int],
    count: int = 0,
) -> list[dict[str, Any]]:
    """Generate a split and let the judge speak; the mean reward is reported beside it.

    >>> (row,) = et.evaluate(bench, bench.model, "test", [0], count=66)
    >>> sorted(row)[:4]
    ['diversity', 'fid', 'foot_skate', 'jerk']

    One row a noise seed. With several of them each row also has ``mmodality``, the mean
    distance of two generations of one prompt, which is of all seeds together.

    Args:
        bench: Whose prompts, judge and reward.
        model: The base model, or one that was tuned.
        split: "validation", "test" or "unseen".
        noise_seeds: Of the noise, which is the same for every model.
        count: At most so many prompts; 0 takes all. FID needs more of them than the judge has
            dimensions (64).

    Raises:
        ValueError: The bench has no such split, or there are too few prompts.
    """
    if split not in bench.references:
        raise ValueError(f"no split {split!r} to be judged on; there are {list(bench.references)}")
    chosen = bench.prompts[split].first(count)
    rows, embedded = [], []
    for seed in noise_seeds:
        motion = sample(model, chosen.prompts, stream(seed, "evaluate", split))
        embedded.append(embed_motions(bench.judge, motion, chosen.prompts.lengths))
        row = evaluate_motion(bench, motion, chosen, split, seed, embedded[-1])
        rows.append({"noise_seed": seed} | row)
    if len(rows) > 1:
        spread = multimodality(torch.stack(embedded, dim=1))
        rows = [row | {"mmodality": spread} for row in rows]
    return rows


@torch.no_grad()
def evaluate_motion(
    bench: Workbench,
    motion: Tensor,
    chosen: PromptSet,
    split: str,
    noise_seed: int,
    embedded: Tensor | None = None,
) -> dict[str, float]:
    """What the judge and the reward say of motions made for ``chosen``.

    R-precision is in groups of 32 labels, or of as many as there are (30 unseen ones); of
    captions, where labels are unknown. ``embedded`` are the judge's embeddings of ``motion``,
    where they are known already.

    Raises:
        ValueError: There are too few prompts for groups or FID; a motion is not finite.
    """
    scores = report.evaluate(
        bench.judge, motion, chosen.prompts, chosen.labels, bench.references[split],
        stream(noise_seed, "judge", split),
        distinct="label" if all(chosen.labels) else "caption",
        group_size=_groups(chosen)[1], embedded=embedded,
    )  # fmt: skip
    rewards = in_parts(bench.reward, motion, chosen.prompts)
    return {**vars(scores), "reward": float(rewards.mean())}


@torch.no_grad()
def in_parts(
    read: Callable[[Tensor, Prompts], Tensor],
    motion: Float[Tensor, "batch frames features"],
    prompts: Prompts,
) -> Float[Tensor, "batch *rest"]:
    """What a reward, or its ``embed``, says of many motions, read 64 at a time."""
    parts = ((motion[rows], prompts[rows]) for rows in torch.arange(len(prompts)).split(64))
    return torch.cat([read(motion[:, : asked.frames], asked) for motion, asked in parts])


@torch.no_grad()
def upper_bound(bench: Workbench, kind: str, split: str, count: int = 0) -> dict[str, Any]:
    """What the judge says of real motion, or of the VAE's reconstruction of it.

    The ``_low`` and ``_high`` of R-precision and MM-Dist are a 95 % bootstrap over labels (captions
    where labels are unknown), since recordings of one label are no independent prompts. The FID
    of real motion is 0, since it is its own reference.

    Args:
        bench: Whose judge and prompts.
        kind: "real" or "VAE".
        split: "validation", "test" or "unseen".
        count: As of :func:`evaluate`.

    Raises:
        ValueError: There are no such embeddings.
    """
    embedded = bench.upper_bounds.get(kind, {}).get(split)
    if embedded is None:
        raise ValueError(
            f"no {kind!r} motion of {split!r}; write it by `easytune train evaluation`"
        )
    chosen, rows = bench.prompts[split].first(count), bench.prompts[split].spread(count)
    text, motion = bench.judge.embed_text(chosen.prompts.texts), embedded[rows]
    names, group_size = _groups(chosen)
    scores = score(
        text, motion, names, bench.references[split], stream(0, "judge", split),
        group_size=group_size,
    )  # fmt: skip
    found = r_precision(text, motion, names, rng=stream(0, "judge", split), group_size=group_size)
    drawn = found.ranks >= 0
    asked = {
        "r1": (drawn & (found.ranks == 0)).sum(0).double(),
        "mm_dist": drawn.sum(0) * (text - motion).norm(dim=1).double(),
    }
    ends: dict[str, float] = {}
    for metric, sums in asked.items():
        labels = [torch.tensor([name == label for name in names]) for label in sorted(set(names))]
        means = [float(sums[rows].sum() / drawn.sum(0)[rows].sum()) for rows in labels]
        spread = bootstrap(means, stream(0, "bootstrap"))
        ends |= {f"{metric}_low": spread.low, f"{metric}_high": spread.high}
    return vars(scores) | ends


def _groups(chosen: PromptSet) -> tuple[Sequence[str], int]:
    """What no group of R-precision may hold twice, and how large groups can be."""
    names = chosen.labels if all(chosen.labels) else chosen.prompts.texts
    return names, min(32, len(set(names)))


def read_evaluation(
    weights: Path, encoder: CachedEncoder
) -> tuple[dict[str, PromptSet], dict[str, dict[str, Tensor]]]:
    """Prompts, and the judge's embeddings of the motions that belong to them: real, and rebuilt.

    The embeddings are under "real" and "VAE" (empty where there was no VAE), then by split.

    Raises:
        ValueError: The file is missing or is no such file.
    """
    path = weights / "evaluation.safetensors"
    tensors, config = load_tensors(path)
    if "sets" not in config:
        raise ValueError(f"{path} holds no prompts: write it by `easytune train evaluation`")
    prompts = {
        name: PromptSet(
            Prompts(encoder.encode(part["texts"]), tensors[f"{name}.lengths"].long()),
            tuple(part["labels"]),
        )
        for name, part in config["sets"].items()
    }
    ceilings = {
        kind: {
            name.removesuffix(end): value.float()
            for name, value in tensors.items()
            if name.endswith(end)
        }
        for kind, end in (("real", ".real"), ("VAE", ".vae"))
    }
    return prompts, ceilings
