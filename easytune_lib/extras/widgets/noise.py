"""The noise explorer: what a reward can still read of a motion on its way."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from easytune_lib.diffusion.rollout import rollout
from easytune_lib.extras.widgets.panel import Panel, View, chart, choice, key_of, line
from easytune_lib.plan import GradientPlan
from easytune_lib.recipes import REWARDS, RewardNoise, load_network
from easytune_lib.rewards.alignment import AlignmentReward
from easytune_lib.rewards.spm import SPM
from easytune_lib.seeding import stream
from easytune_lib.viz.style import method_style
from easytune_lib.workbench import WEIGHTS, PromptSet, Workbench

EVERY = "all prompts, mean"


class NoiseExplorer(Panel):
    """Similarity to the final motion, and rank of the own caption, by step and reward.

    The rank is that of a motion's own caption among the captions of all chosen prompts, 1 is
    best; both the state (its step told) and the clean estimate are read. All is computed at once.

    Args:
        bench: Whose model.
        chosen: The prompts; their labels should differ, a dozen or more.
        rewards: Rewards by what noise they learned to read through; empty for the bench's.
        seed: Of the noise.
    """

    def __init__(
        self,
        bench: Workbench,
        chosen: PromptSet,
        rewards: Sequence[RewardNoise] = (),
        seed: int = 0,
    ) -> None:
        readers: dict[str, AlignmentReward] = {
            name: AlignmentReward(
                load_network(SPM, WEIGHTS / f"{REWARDS[name]}.safetensors"), bench.model.schedule
            )
            for name in rewards
        }
        if not readers:
            assert isinstance(bench.reward, AlignmentReward)
            readers = {"features": bench.reward}
        prompts, n = chosen.prompts, bench.model.n_steps
        self.similarity, self.ranks = _read(bench, chosen, readers, seed)
        views: dict[str, View] = {}
        at = list(range(1, n + 1))
        texts = _apart(prompts.texts)
        for name in readers:
            for row, text in enumerate([EVERY, *texts]):
                rows = slice(None) if row == 0 else slice(row - 1, row)
                views[key_of([text, name])] = _view(
                    at, {k: v[:, rows].mean(1) for k, v in self.similarity[name].items()},
                    {k: v[:, rows].mean(1) for k, v in self.ranks[name].items()}, len(prompts),
                )  # fmt: skip
        super().__init__(
            f"What is left of {len(prompts)} motions in noise, to a reward",
            [choice("prompt", "prompt", [EVERY, *texts]),
             choice("reward", "reward, by the noise it learned from", list(readers))],
            {"prompt": EVERY, "reward": next(iter(readers))}, {}, views, height=400,
        )  # fmt: skip


def _apart(texts: Sequence[str]) -> list[str]:
    """Captions as options, of which none may be there twice."""
    return [f"{text} ({i})" if texts.count(text) > 1 else text for i, text in enumerate(texts)]


@torch.no_grad()
def _read(
    bench: Workbench, chosen: PromptSet, readers: dict[str, AlignmentReward], seed: int
) -> tuple[dict[str, dict[str, Tensor]], dict[str, dict[str, Tensor]]]:
    """Per reader and state, ``(steps, prompts)``: cosine to the final motion, and rank."""
    model, prompts = bench.model, chosen.prompts
    plan = GradientPlan(frozenset(), frozenset({model.n_steps - 1}))
    x_T = model.draw_noise(prompts, stream(seed, "noise"))
    embedded: dict[str, dict[str, list[Tensor]]] = {
        name: {"x_t": [], "x0_hat": []} for name in readers
    }
    for step in rollout(model, x_T, prompts, plan, stream(seed, "sampler")):
        now = torch.full((len(prompts),), step.now)
        seen = {"x_t": (step.x_t, now), "x0_hat": (step.x0_hat, None)}
        for what, (state, t) in seen.items():
            motion = model.decode(state, prompts)
            for name, reader in readers.items():
                embedded[name][what].append(F.normalize(reader.embed(motion, prompts, t), dim=-1))
    similarity, ranks = {}, {}
    for name, reader in readers.items():
        text = F.normalize(reader.embed_text(prompts.text), dim=-1)
        final = embedded[name]["x0_hat"][-1]
        similarity[name], ranks[name] = {}, {}
        for what, motions in embedded[name].items():
            stacked = torch.stack(motions)
            cosines = stacked @ text.T  # (steps, motions, captions)
            own = cosines.diagonal(dim1=1, dim2=2)[..., None]
            similarity[name][what] = (stacked * final).sum(-1)
            ranks[name][what] = (cosines > own).sum(-1).float() + 1
    return similarity, ranks


def _view(
    at: Sequence[int], similarity: dict[str, Tensor], ranks: dict[str, Tensor], count: int
) -> View:
    def lines(values: dict[str, Tensor]) -> list[dict[str, object]]:
        return [
            line(f"reads {what}", at, values[what].tolist(), method_style(what)["color"])
            for what in ("x_t", "x0_hat")
        ]

    half = len(at) // 2
    return {
        "note": f"half-way, the own caption of {count} ranks {float(ranks['x_t'][half - 1]):.1f} "
        f"for a reader of x_t and {float(ranks['x0_hat'][half - 1]):.1f} for one of x0_hat",
        "charts": [
            chart("Cosine to the final motion", "denoising step", lines(similarity)),
            chart(f"Rank of the own caption among {count}", "denoising step", lines(ranks),
                  y_range=[1, max(2.0, *(float(v.max()) for v in ranks.values()))]),
        ],
    }  # fmt: skip
