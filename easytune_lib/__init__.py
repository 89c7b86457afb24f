"""Align a text-to-motion diffusion model with a differentiable reward.

Everything that the five jobs need is here, and is imported when it is first used::

    import easytune_lib as et

    bench = et.open_workbench("mld")
    run = et.tune(bench, et.EasyTune(1, "random"), updates=20, lr=2e-4)
    et.show(bench.sample(["a person waves."]), run.sample(["a person waves."]))
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PLACES = {
    "workbench": "Workbench open_workbench make_prompts evaluate",
    "plan": "GradientPlan",
    "types": "Prompts Denoiser Reward",
    "models.wrapped": "Wrapped",
    "motion.motion": "Motion",
    "diffusion.model": "MotionDiffusion",
    "diffusion.rollout": "rollout",
    "finetuning.loop": "batches copy_for_tuning finetune",
    "finetuning.methods": "AlignProp DRaFT DRaFTLV DRTune EasyTune ReFL",
    "rewards.mix": "Mix",
    "rewards.spl": "SPL",
    "recipes": "train_reward",
    "experiments.analyses": "gradient_norms memory noise_similarity",
    "experiments.tune": "tune tune_steps",
    "experiments.compare": "compare",
    "records": "RunRecord",
    "viz.figures": "plot",
    "viz.player": "show",
    "viz.video": "save_video",
}
_HOME = {name: module for module, names in _PLACES.items() for name in names.split()}

__all__ = sorted(_HOME)

if TYPE_CHECKING:  # for editors and type checkers; at run time see `__getattr__`
    from easytune_lib.diffusion.model import MotionDiffusion
    from easytune_lib.diffusion.rollout import rollout
    from easytune_lib.experiments.analyses import gradient_norms, memory, noise_similarity
    from easytune_lib.experiments.compare import compare
    from easytune_lib.experiments.tune import tune, tune_steps
    from easytune_lib.finetuning.loop import batches, copy_for_tuning, finetune
    from easytune_lib.finetuning.methods import AlignProp, DRaFT, DRaFTLV, DRTune, EasyTune, ReFL
    from easytune_lib.models.wrapped import Wrapped
    from easytune_lib.motion.motion import Motion
    from easytune_lib.plan import GradientPlan
    from easytune_lib.recipes import train_reward
    from easytune_lib.records import RunRecord
    from easytune_lib.rewards.mix import Mix
    from easytune_lib.rewards.spl import SPL
    from easytune_lib.types import Denoiser, Prompts, Reward
    from easytune_lib.viz.figures import plot
    from easytune_lib.viz.player import show
    from easytune_lib.viz.video import save_video
    from easytune_lib.workbench import Workbench, evaluate, make_prompts, open_workbench


def __getattr__(name: str) -> Any:
    """Import a name of the door when it is first asked for."""
    if name not in _HOME:
        raise AttributeError(f"module 'easytune_lib' has no {name!r}; there are {__all__}")
    value = getattr(import_module(f"easytune_lib.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """All names of the door, for completion."""
    return sorted({*globals(), *__all__})
