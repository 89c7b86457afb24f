"""The gradient explorer: which denoising steps hear the reward, and through what."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod

import torch
from torch import Tensor

from easytune_lib.analysis.gradients import JacobianNorms, jacobian_norms, share_norms
from easytune_lib.diffusion.model import MotionDiffusion
from easytune_lib.extras.widgets.panel import Panel, View, chart, choice, line, slider
from easytune_lib.finetuning.loop import copy_for_tuning
from easytune_lib.finetuning.methods import AlignProp, DRaFT, DRTune, EasyTune
from easytune_lib.seeding import stream
from easytune_lib.types import FineTuneMethod, Prompts
from easytune_lib.viz.style import method_style
from easytune_lib.workbench import Workbench

METHODS = ("DRaFT", "EasyTune", "ReFL", "AlignProp", "DRTune")
MOST = 1024
"""Numbers in a state whose Jacobian is still made whole."""


@dataclass
class Trajectory:
    """What was computed of one guidance and number of steps; all else follows from it."""

    model: MotionDiffusion
    x_T: Tensor
    jacobians: JacobianNorms
    shares: dict[str, Tensor]  # norms by step, by what they are of


class GradientExplorer(Panel):
    """Jacobian norms and products, raw and normalised, and each method's gradient shares.

    Trajectories are kept, one for each guidance and number of steps. From a kept one any K is a
    look-up: DRaFT-K's shares are the last K of the whole chain's, EasyTune-K's the last K of
    EasyTune's on all steps, and ReFL's those of its window, one of which is drawn. AlignProp's
    and DRTune's are computed when they are first asked for.

    Args:
        bench: Whose model and reward; a latent of few numbers, for exact Jacobians.
        prompts: One caption or a few; norms are of the mean reward's gradient.
        guidance: The choices.
        steps: The choices of the number of denoising steps.
        seed: Of noise and plans.

    Raises:
        ValueError: The state has more than 1024 numbers.
    """

    def __init__(
        self,
        bench: Workbench,
        prompts: Prompts,
        guidance: Sequence[float] = (1.0, 2.5, 5.0, 7.5),
        steps: Sequence[int] = (5, 10, 20),
        seed: int = 0,
    ) -> None:
        if (size := prod(bench.model.state_shape(prompts))) > MOST:
            raise ValueError(
                f"exact Jacobians are of states of at most {MOST} numbers, this one has {size}: "
                "open the workbench on mld or mld_early"
            )
        self._bench, self._prompts, self._seed = bench, prompts, seed
        self._cache: dict[tuple[str, str], Trajectory] = {}
        super().__init__(
            f"Where the reward gradient goes: {prompts.texts[0]}",
            [
                choice("method", "method", METHODS),
                slider("k", "K, steps from the clean end", range(1, max(steps) + 1)),
                choice("guidance", "guidance", guidance),
                choice("steps", "denoising steps", steps),
            ],
            {"method": "DRaFT", "k": str(max(steps) // 2), "guidance": str(guidance[-2]),
             "steps": str(steps[len(steps) // 2])},
            height=640,
        )  # fmt: skip

    def keep(self, **options: Sequence[object]) -> None:
        """Compute the views of all combinations, so that the exported page has them."""
        before = dict(self.values)
        for values in product(*options.values()):
            self.set(**dict(zip(options, values, strict=True)))
        self.values = before

    def trajectory(self, guidance: str, steps: str) -> Trajectory:
        """The kept one, or a new one."""
        if (guidance, steps) not in self._cache:
            model = copy_for_tuning(self._bench.model)
            model = replace(model, n_steps=int(steps), guidance=float(guidance))
            x_T = model.draw_noise(self._prompts, stream(self._seed, "gradients"))
            norms = jacobian_norms(model, x_T, self._prompts)
            self._cache[guidance, steps] = Trajectory(model, x_T, norms, {})
        return self._cache[guidance, steps]

    def compute(self, values: Mapping[str, str]) -> View:
        """Two charts of Jacobians, one of shares."""
        n = int(values["steps"])
        k = min(int(values["k"]), n)
        kept = self.trajectory(values["guidance"], values["steps"])
        norms, at = kept.jacobians, list(range(1, n + 1))
        shares = self._shares(kept, values["method"], k, n)
        total = max(float(shares.sum()), 1e-12)
        early = float(shares[: n // 2].sum()) / total
        first, tone = n - k, method_style(values["method"])["color"]
        reach = norms.product_frobenius.mean(1).tolist()
        raw = [
            line("|J_i|, Frobenius", at, norms.frobenius.mean(1).tolist(), 0),
            line("|J_i|, spectral", at, norms.spectral.mean(1).tolist(), 4),
            line("product to the end", at[first:], reach[first:], 1),
            line("product before the last K", at[: first + 1], reach[: first + 1], 1, dash=True),
        ]
        divided = [
            line("|J_i| / sqrt(d)", at, (norms.frobenius / norms.dim.sqrt()).mean(1).tolist(), 0),
            line("product, divided inside", at, norms.divided.mean(1).tolist(), 1),
        ]
        return {
            "note": f"{values['method']}, K = {k} of {n} steps: the first half of the steps gets "
            f"{100 * early:.0f} % of the summed gradient; the product over the last K Jacobians "
            f"is {reach[first]:.3g} raw",
            "charts": [
                chart("Jacobians, raw (identity = 1)", "denoising step", raw, zero=True),
                chart("Divided by the dimension (Fig. 3)", "denoising step", divided, log=True),
                chart("Gradient share of each step, norm", "denoising step",
                      [line(values["method"], at, shares.tolist(), tone)], zero=True),
            ],
        }  # fmt: skip

    def _shares(self, kept: Trajectory, method: str, k: int, n: int) -> Tensor:
        window = torch.arange(n) >= n - k
        if method == "DRaFT":
            return self._norms(kept, "DRaFT", DRaFT(), n) * window
        if method == "EasyTune":
            return self._norms(kept, "EasyTune", EasyTune(), n) * window
        if method == "ReFL":  # one of the window's steps, each as likely
            return self._norms(kept, "EasyTune", EasyTune(), n) * window / k
        if method == "AlignProp":
            return self._norms(kept, f"AlignProp {k}", AlignProp(k / n), n)
        return self._norms(kept, f"DRTune {k}", DRTune(k, window=1), n)

    def _norms(self, kept: Trajectory, name: str, method: FineTuneMethod, n: int) -> Tensor:
        if name not in kept.shares:
            plan = method.plan(n, stream(self._seed, "plan"))
            kept.shares[name] = share_norms(
                kept.model, self._bench.reward, kept.x_T, self._prompts, plan
            ).norms
        return kept.shares[name]
