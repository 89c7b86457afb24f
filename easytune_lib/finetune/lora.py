"""Low-rank adapters: a few weights are tuned, and the base stays as it is. Needs peft."""

import math
from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import nn

from easytune_lib.protocols import Denoiser


def with_lora(
    denoiser: Denoiser,
    rng: torch.Generator,
    rank: int = 8,
    alpha: float = 8.0,
    targets: Sequence[str] = ("qkv", "out"),
) -> Denoiser:
    """A copy of a denoiser in which only adapters are left to tune; at first, it does the same.

    Each target's weight W becomes ``W + alpha / rank * B A`` with B = 0 and A drawn from ``rng``.

    Args:
        denoiser: Not changed.
        rng: For A.
        rank: Of the adapters.
        alpha: Their scale.
        targets: Ends of the names of the linear layers that get one; by default those of
            attention in :mod:`easytune_lib.blocks`, as DRaFT and AlignProp have it.

    Raises:
        ImportError: There is no peft.
        ValueError: No layer is called so.

    Source: Hu et al. (2022), Eq. 3.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
        from peft.tuners.lora import LoraLayer
    except ImportError as error:
        raise ImportError("LoRA needs peft: pip install 'easytune-workbench[lora]'") from error
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets))  # type: ignore
    with torch.random.fork_rng(devices=[]):  # peft draws from the global generator
        tuned = inject_adapter_in_model(config, deepcopy(denoiser))
    for module in tuned.modules():
        if isinstance(module, LoraLayer):
            for layer in module.lora_A.values():
                nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=rng)  # type: ignore
    return tuned  # type: ignore[return-value]


def merged(denoiser: Denoiser) -> Denoiser:
    """A plain copy with the adapters added to the weights they adapt; names are the base's."""
    from peft.tuners.lora import LoraLayer

    plain = deepcopy(denoiser)
    for name, module in list(plain.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()  # type: ignore[operator]
            parent, _, own = name.rpartition(".")
            setattr(plain.get_submodule(parent), own, module.get_base_layer())
    return plain.requires_grad_()
