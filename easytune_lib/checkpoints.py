"""Weights that others trained: read without running code, fitted strictly, told apart by name."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from easytune_lib.storage import load_tensors

Network = TypeVar("Network", bound=nn.Module)

# The first whose names all end some key of a file says what the file is; special ones stand first.
LAYOUTS: tuple[tuple[str, frozenset[str]], ...] = tuple(
    (model, frozenset(names.split()))
    for model, names in (
        ("MotionLCM V2", "time_embedding.cond_proj.weight latent_pre.weight"),
        ("MotionLCM V1", "time_embedding.cond_proj.weight"),
        ("MLD++ (MotionLCM V2's base)", "emb_proj.1.weight latent_pre.weight"),
        ("MLD without a VAE (original)", "emb_proj.1.weight pose_embd.weight"),
        ("MLD (original, CLIP)", "emb_proj.1.weight mem_pos.pe"),
        ("MLD V1 (sentence-T5; EasyTune's base)", "emb_proj.1.weight"),
        ("the SPM of EasyTune and ReAlign", "global_text_token dist_text_layer.weight"),
        ("the VAE of MLD++", "global_motion_token query_pos_decoder.pe latent_pre.weight"),
        ("the VAE of MLD", "global_motion_token query_pos_decoder.pe"),
        ("MDM (encoder)", "embed_timestep.time_embed.0.weight seqTransEncoder.layers.0.norm1.bias"),
        ("MDM (decoder)", "embed_timestep.time_embed.0.weight seqTransDecoder.layers.0.norm1.bias"),
        ("MotionDiffuse", "sequence_embedding joint_embed.weight"),
        ("the T2M evaluator", "movement_encoder.main.0.weight text_encoder.pos_emb.weight"),
        ("the workbench's SPM", "read_motion.weight read_text.weight"),
        ("the workbench's VAE", "global_tokens latent_position"),
        ("the workbench's judge", "movement.first.weight text.start"),
        ("the workbench's MDM", "read.weight position text.weight mean"),
        ("the workbench's MLD", "read.weight position text.weight"),
    )
)


def read_checkpoint(path: Path | str, trust: bool = False) -> dict[str, Tensor]:
    """All tensors of a .safetensors, .pt, .pth, .ckpt or .tar file, on the CPU.

    ``state_dict`` (Lightning and others) and ``module.`` (DataParallel) are taken off. Where a
    file holds several networks, keys begin with the network's name (``text_encoder.hidden``);
    optimizers, counters and configurations are passed over.

    Args:
        path: The file.
        trust: Run the code in a pickle. Only for files of which you know who wrote them.

    Raises:
        ValueError: The file is missing, empty, cut or no checkpoint; needs code to be read; or
            holds no tensors. Says which, in one line.
    """
    if Path(path).suffix == ".safetensors":
        try:
            return _without_module(load_file(path, device="cpu"))
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
    found = _networks(_unpickle(Path(path), trust))
    if not found:
        raise ValueError(f"{path} holds no tensors under names: it is no checkpoint of a network")
    if len(found) == 1:
        return next(iter(found.values()))
    return {f"{name}.{k}": v for name, part in found.items() for k, v in part.items()}


def _unpickle(path: Path, trust: bool) -> Any:
    try:
        with path.open("rb") as file:
            head = file.read(16)
        if not head:
            raise ValueError(f"{path} is empty: download it again")
        if not head.startswith((b"PK\3\4", b"\x80\2")):  # torch.save writes a zip, or once a pickle
            raise ValueError(f"{path} is no checkpoint: it begins with {head!r}")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    try:
        return torch.load(path, map_location="cpu", weights_only=not trust)
    except Exception as error:  # of any kind: damaged bytes decide what goes wrong
        if code := re.search(r"GLOBAL (\S+)", str(error)):
            raise ValueError(
                f"{path} holds more than tensors ({code[1]}), and reading it would run its code: "
                "give trust=True if you know who wrote it, or save its state_dict alone"
            ) from error
        what = re.split(r"\. |\n", str(error))[0] or "it ends too early"
        raise ValueError(f"{path} is cut, damaged or no checkpoint: {what}") from error


def _networks(content: Any) -> dict[str, dict[str, Tensor]]:
    """Each state_dict of a file, by the name it has there ("" where it is the file itself)."""
    if not isinstance(content, dict):
        return {}
    for wrapper in ("state_dict", "model_state_dict"):
        if isinstance(content.get(wrapper), dict):
            return _networks(content[wrapper])
    candidates = {"": content, **content}
    tensors = {
        str(name): {k: v for k, v in part.items() if isinstance(v, Tensor)}
        for name, part in candidates.items()
        if isinstance(part, dict) and all(isinstance(k, str) for k in part)
    }
    return {name: _without_module(part) for name, part in tensors.items() if part}


def _without_module(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    if all(name.startswith("module.") for name in tensors):
        return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return tensors


def looks_like(names: Iterable[str]) -> str | None:
    """The known model that a checkpoint with these keys is of, whatever stands before them."""
    ends: set[str] = set()
    for name in names:
        words = name.split(".")
        ends.update(".".join(words[i:]) for i in range(len(words)))
    return next((model for model, telltales in LAYOUTS if telltales <= ends), None)


def fit(network: nn.Module, tensors: dict[str, Tensor], path: Path | str) -> None:
    """Fill ``network`` strictly; half-precision weights are widened to the network's type.

    Raises:
        ValueError: Keys or shapes differ, or two names of one shared parameter hold different
            numbers. Counts and names what is missing, extra or misshapen, and says which known
            model the file looks like. ``network`` is then as it was.
    """
    own = network.state_dict(keep_vars=True)
    _refuse_misfit(own, tensors, type(network).__name__, path)
    shared: dict[int, list[str]] = defaultdict(list)
    for name, tensor in own.items():
        shared[id(tensor)].append(name)
    for first, *others in shared.values():
        for other in others:
            if not torch.equal(tensors[first], tensors[other]):
                raise ValueError(
                    f"{path} does not fit {type(network).__name__}: {first} and {other} are one "
                    "parameter there, and differ in the file"
                )
    network.load_state_dict({k: tensors[k].to(own[k].dtype) for k in own}, strict=True)


def rebuilt(kind: type[Network], path: Path) -> Network:
    """A network in eval mode, from a file of :func:`~easytune_lib.storage.save_tensors`.

    Its sizes are in the file's header, under "network". Before memory is taken for them, they
    are held against the tensors in the file.

    Raises:
        ValueError: The file is missing, or holds no such network; says which.
    """
    tensors, config = load_tensors(path)
    sizes, name = config.get("network"), kind.__name__
    if not isinstance(sizes, dict):
        raise ValueError(f"{path} says nothing of a network in its header: it holds no {name}")
    numbers = {key: value for key, value in sizes.items() if isinstance(value, int)}
    if large := [key for key, value in numbers.items() if value > 2**20]:
        raise ValueError(f"{path} holds no {name}: no network has so many {', '.join(large)}")
    if numbers.get("layers", 0) > len(tensors):
        raise ValueError(f"{path} holds no {name}: it has {len(tensors)} tensors, too few layers")
    try:
        with torch.device("meta"):
            plan = kind(**sizes)
    except Exception as error:  # of any kind: sizes of strangers decide what goes wrong
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{path} holds no {name}: {why} in its header") from error
    _refuse_misfit(plan.state_dict(), tensors, name, path)
    network = kind(**sizes)
    fit(network, tensors, path)
    return network.eval()


def _refuse_misfit(
    own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], name: str, path: Path | str
) -> None:
    """See :func:`fit`."""
    wrong = {
        "missing": sorted(own.keys() - tensors.keys()),
        "extra": sorted(tensors.keys() - own.keys()),
        "of another shape": [
            f"{name}: {tuple(tensors[name].shape)} instead of {tuple(own[name].shape)}"
            for name in sorted(own.keys() & tensors.keys())
            if tensors[name].shape != own[name].shape
        ],
    }
    if any(wrong.values()):
        told = ", ".join(
            f"{len(names)} {kind} {names[:5]}" for kind, names in wrong.items() if names
        )
        guess = looks_like(tensors) or "no model known here"
        raise ValueError(f"{path} does not fit {name}, it looks like {guess}: {told}")
