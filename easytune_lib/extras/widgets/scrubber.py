"""The denoising scrubber: drag through the steps from noise to motion."""

from typing import Any

import torch

from easytune_lib.analysis.gradients import share_norms
from easytune_lib.diffusion.rollout import Step, rollout
from easytune_lib.extras.widgets.panel import Panel, View, chart, key_of, line, slider
from easytune_lib.finetuning.loop import copy_for_tuning
from easytune_lib.finetuning.methods import DRaFT, EasyTune
from easytune_lib.plan import GradientPlan
from easytune_lib.seeding import stream
from easytune_lib.types import Prompts
from easytune_lib.viz.player import MotionPlayer
from easytune_lib.viz.style import method_style
from easytune_lib.workbench import Workbench, motions_of

_COLORS = tuple(method_style(state)["color"] for state in ("x_t", "x0_hat"))


class Scrubber(Panel):
    """One caption's way from noise: state, clean estimate, reward and gradient share by step.

    All steps are computed at once, so the slider needs no kernel. The shares are those of
    ``share_norms``, each method's divided by their sum.

    Args:
        bench: Whose model and reward.
        prompts: One caption, as from ``make_prompts``.
        seed: Of the noise.

    Raises:
        ValueError: There are several captions.
    """

    def __init__(self, bench: Workbench, prompts: Prompts, seed: int = 0) -> None:
        if len(prompts) != 1:
            raise ValueError(f"a scrubber follows one caption, got {len(prompts)}")
        model, reward = copy_for_tuning(bench.model), bench.reward
        n = model.n_steps
        x_T = model.draw_noise(prompts, stream(seed, "scrubber"))
        nothing = GradientPlan(frozenset(), frozenset({n - 1}))
        with torch.no_grad():
            steps = list(rollout(model, x_T, prompts, nothing, stream(seed, "sampler")))
            decoded = {
                what: [model.decode(getattr(step, what), prompts) for step in steps]
                for what in ("x_t", "x0_hat")
            }
            rewards = {
                what: [float(reward(motion, prompts)) for motion in motions]
                for what, motions in decoded.items()
            }
        shares = {}
        for method in (DRaFT(), EasyTune()):
            plan = method.plan(n, stream(seed, "plan"))
            norms = share_norms(model, reward, x_T, prompts, plan, stream(seed, "sampler")).norms
            shares[type(method).__name__] = (100 * norms / norms.sum()).tolist()
        at = list(range(1, n + 1))
        base: View = {
            "charts": [
                chart("Reward of what is seen at each step", "denoising step", [
                    line("x_t", at, rewards["x_t"], _COLORS[0]),
                    line("x0_hat", at, rewards["x0_hat"], _COLORS[1]),
                ], pick="step"),
                chart("Share of the reward gradient, %", "denoising step", [
                    line("DRaFT, whole chain", at, shares["DRaFT"], method_style("DRaFT")["color"]),
                    line("EasyTune, every step", at, shares["EasyTune"],
                         method_style("EasyTune")["color"]),
                ], pick="step", zero=True),
            ],
        }  # fmt: skip
        views, spec = {}, {}
        for i, step in enumerate(steps):
            pair = [motions_of(decoded[what][i], prompts)[0] for what in ("x_t", "x0_hat")]
            spec = MotionPlayer(
                pair, names=["the state x_t", "the clean estimate x0_hat"], colors=_COLORS,
                captions=["", ""], height=430,
            ).spec  # fmt: skip
            views[key_of([str(i + 1)])] = {
                "motions": {k: spec[k] for k in ("tracks", "cells", "frames", "scale")},
                "mark": i + 1, "note": _said(step, n, rewards, i),
            }  # fmt: skip
        base["player"] = spec
        self.rewards, self.shares = rewards, shares
        super().__init__(
            f"Denoising, step by step: {prompts.texts[0]}",
            [slider("step", "step", at)], {"step": str(n)}, base, views, height=860,
        )  # fmt: skip


def _said(step: Step, n: int, rewards: dict[str, Any], i: int) -> str:
    return (
        f"step {i + 1} of {n}, training step {step.now}: reward of x_t {rewards['x_t'][i]:.2f}, "
        f"of x0_hat {rewards['x0_hat'][i]:.2f}"
    )
