"""Low-rank adapters: a few weights are tuned, and the base stays as it is. Needs peft."""

import math
from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import nn

from easytune_lib.types import Denoiser


def with_lora(
    denoiser: Denoiser,
    rng: torch.Generator,
    rank: int = 8,
    alpha: float = 8.0,
    targets: Sequence[str] | None = None,
) -> Denoiser:
    """A copy of a denoiser in which only adapters are left to tune; at first, it does the same.

    Each target's weight W becomes ``W + alpha / rank * B A`` with B = 0 and A drawn from ``rng``.
    In PyTorch's own attention layers peft adds this anew at every call and takes it off again: so
    the base there keeps its weights up to rounding only, and the output projection gets ``2 B A``.

    Args:
        denoiser: Not changed.
        rng: For A.
        rank: Of the adapters.
        alpha: Their scale.
        targets: Ends of the names of the layers that get one; by default :func:`attention`, as
            DRaFT and AlignProp have it.

    Raises:
        ImportError: There is no peft.
        ValueError: No layer is called so, or there is no attention.

    Source: Hu et al. (2022), Eq. 3.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
        from peft.tuners.lora import LoraLayer
    except ImportError as error:
        raise ImportError("LoRA needs peft: pip install 'easytune-workbench[lora]'") from error
    chosen = list(attention(denoiser) if targets is None else targets)
    if not chosen:
        raise ValueError(f"{type(denoiser).__name__} has no attention that is known: give targets")
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=chosen)  # type: ignore
    with torch.random.fork_rng(devices=[]):  # peft draws from the global generator
        tuned = inject_adapter_in_model(config, deepcopy(denoiser))
    for module in tuned.modules():
        if isinstance(module, LoraLayer):
            for layer in module.lora_A.values():
                nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=rng)  # type: ignore
    return tuned  # type: ignore[return-value]


def attention(network: nn.Module) -> list[str]:
    """Names of the layers of all attention: of ours, of PyTorch's, and of MotionDiffuse's."""
    names: list[str] = []
    for name, module in network.named_modules():
        own = {child for child, _ in module.named_children()}
        if isinstance(module, nn.MultiheadAttention):
            names.append(name)
        for layers in (("qkv", "out"), ("query", "key", "value")):
            names += [f"{name}.{layer}" for layer in layers if own.issuperset(layers)]
    return names


def merged(denoiser: Denoiser) -> Denoiser:
    """A plain copy with the adapters added to the weights they adapt; names are the base's."""
    from peft.tuners.lora import LoraLayer
    from peft.tuners.lora.layer import MultiheadAttention

    plain = deepcopy(denoiser)
    for name, module in list(plain.named_modules()):
        if not isinstance(module, LoraLayer) or ".base_layer." in name:
            continue
        if isinstance(module, MultiheadAttention):
            base = module.unload_and_optionally_merge_module(True, False, None)
        else:
            module.merge()  # type: ignore[operator]
            base = module.get_base_layer()
        parent, _, own = name.rpartition(".")
        setattr(plain.get_submodule(parent), own, base)
    return plain.requires_grad_()
