"""Say what a downloaded checkpoint is, and make the model that it holds."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from easytune_lib.checkpoints import fit, looks_like, read_checkpoint
from easytune_lib.data.corpus import FeatureStats
from easytune_lib.extras.official.mdm import UNREAD, OfficialMDM
from easytune_lib.extras.official.mld import MotionDenoiser, OfficialMLD
from easytune_lib.extras.official.motionlcm import MotionLCM
from easytune_lib.models.motiondiffuse import MotionDiffuse
from easytune_lib.motion.arrays import array_in
from easytune_lib.storage import part, save_tensors, write_json
from easytune_lib.text.encoders import PUBLISHED

Model = OfficialMLD | MotionLCM | MotionDenoiser | OfficialMDM | MotionDiffuse

T5, BERT = "sentence-t5-large", "distilbert-base-uncased"
CLIP_L, CLIP_B = "clip-vit-large-patch14", "clip-vit-base-patch32"
STATES = "clip-vit-base-patch32-states"

# What each known model is made by, and which encoder its captions were read with.
KINDS: dict[str, tuple[type[Any], str]] = {
    "MotionLCM V2": (MotionLCM, T5),
    "MotionLCM V1": (MotionLCM, T5),
    "MLD++ (MotionLCM V2's base)": (OfficialMLD, T5),
    "MLD without a VAE (original)": (MotionDenoiser, CLIP_L),
    "MLD (original, CLIP)": (OfficialMLD, CLIP_L),
    "MLD V1 (sentence-T5; EasyTune's base)": (OfficialMLD, T5),
    "MDM (encoder)": (OfficialMDM, CLIP_B),
    "MDM (decoder)": (OfficialMDM, CLIP_B),
    "MotionDiffuse": (MotionDiffuse, STATES),
}
ELSEWHERE = {
    "the SPM of EasyTune and ReAlign": "a reward: OfficialSPM.load reads it",
    "the T2M evaluator": "a judge: T2MEvaluator.official reads it",
    "the VAE of MLD": "a VAE without a denoiser",
    "the VAE of MLD++": "a VAE without a denoiser",
}
PARTS = {
    "vae.": "VAE",
    "denoiser.": "denoiser",
    "t2m_textencoder.": "T2M evaluator",
    "t2m_moveencoder.": "T2M evaluator",
    "t2m_motionencoder.": "T2M evaluator",
    "text_encoder.": "text encoder",
    "clip_model.": "text encoder",
    "clip.": "CLIP",
    "controlnet.": "ControlNet",
    "traj_encoder.": "ControlNet",
}
PASSED_OVER = ("text encoder", "CLIP", "ControlNet")
INPUTS = ("skel_embedding.weight", "poseEmbedding.weight", "joint_embed.weight", "pose_embd.weight")


@dataclass(frozen=True)
class Contents:
    """What a file holds."""

    path: Path
    model: str  # name and version
    features: int  # of a frame: 263 of HumanML3D, 251 of KIT-ML; 0: not known
    sizes: dict[str, Any]  # arguments of its class, as its shapes and what lies beside it say
    parts: dict[str, int]  # numbers in each part
    missing: tuple[str, ...]  # weights without which it cannot be opened
    needed: tuple[str, ...]  # what is to come from elsewhere
    notes: tuple[str, ...]

    def __str__(self) -> str:
        sizes = [f"{name} {size}" for name, size in _flat(self.sizes) if size is not None]
        parts = ", ".join(f"{name} ({count / 1e6:.2f} M)" for name, count in self.parts.items())
        rows = [f"{self.path}: {self.model}", f"  holds: {parts}"]
        rows += [f"  sizes: features {self.features}, {', '.join(sizes)}"] if sizes else []
        rows += [f"  MISSING: {name}" for name in self.missing]
        rows += [f"  needs: {name}" for name in self.needed]
        return "\n".join(rows + [f"  note: {note}" for note in self.notes])


def inspect_checkpoint(path: Path | str, trust: bool = False) -> Contents:
    """What a file is, by the names and shapes in it.

    Args:
        path: A published checkpoint, or one that was converted.
        trust: Run the code in a pickle, see :func:`easytune_lib.checkpoints.read_checkpoint`.

    Raises:
        ValueError: The file cannot be read, or is of no known model; one line.
    """
    path = Path(path)
    tensors, chosen = _weights(path, trust, average=None)
    model = _name(path, tensors)
    if model not in KINDS:
        count = sum(tensor.numel() for tensor in tensors.values())
        said = (ELSEWHERE.get(model, "made here: easytune_lib.recipes.load_network reads it"),)
        return Contents(path, model, 0, {}, {model.removeprefix("the "): count}, (), (), said)
    kind, encoder = KINDS[model]
    own, parts = _own(kind, tensors), Counter[str]()
    for name, tensor in tensors.items():
        parts[_part(name)] += tensor.numel()
    sizes, features = dict[str, Any](), 0
    try:
        features, sizes = _features(own), _sizes(kind, own, path)
        lacking = sorted(_shapes(kind, sizes, features).keys() - own.keys())
    except KeyError as error:
        lacking = [str(error.args[0])]
    encoder = BERT if sizes.get("words") else encoder
    reader = f'published_encoder("{encoder}"): {PUBLISHED[encoder].gives}'
    notes, needed = list(chosen), [f"captions read by {reader}"]
    if _stats_beside(path) is None:
        needed.append("mean and std of its features: Mean.npy and Std.npy beside it, or stats=")
    if kind is OfficialMDM and not _beside(path) and not _header(path):
        notes.append(f"no args.json beside it: {sizes.get('diffusion_steps')} steps are assumed")
    if "T2M evaluator" in parts:
        notes.append("T2MEvaluator.official reads the evaluator in it")
    if sizes and "heads" not in sizes:
        heads = signature(kind).parameters["heads"].default if kind is not MotionDenoiser else 4
        notes.append(f"the number of attention heads is in no shape: {heads} are assumed")
    rest = (f"{len(lacking) - 5} more",) if len(lacking) > 5 else ()
    missing = (*lacking[:5], *rest)
    return Contents(path, model, features, sizes, dict(parts), missing, tuple(needed), tuple(notes))


def open_checkpoint(
    path: Path | str,
    stats: FeatureStats | None = None,
    trust: bool = False,
    average: bool | None = None,
    **options: Any,
) -> Model:
    """The model in a file, loaded strictly, in eval mode; ``.diffusion(no_text)`` samples.

    Args:
        path: A published checkpoint, or one that was converted.
        stats: Mean and std that it was trained with. ``None``: those in a converted file, or
            ``Mean.npy`` and ``Std.npy`` beside the file (MotionDiffuse: in ``meta``).
        trust: Run the code in a pickle, see :func:`easytune_lib.checkpoints.read_checkpoint`.
        average: Take the averaged weights of an MDM that has both; ``None``: as its args.json
            says, otherwise not, as the published code does.
        options: Other arguments of the model's class, for instance ``heads``.

    Raises:
        ValueError: The file cannot be read, is of no known model, lacks weights, or no
            statistics of its width are known; one line.
    """
    path = Path(path)
    tensors, _ = _weights(path, trust, average)
    found = stats or _stats_beside(path)
    if found is None and _name(path, tensors) in KINDS:
        raise ValueError(
            f"{path}: mean and std of its features are not known: give them, or put Mean.npy and "
            "Std.npy beside it"
        )
    return _made(path, tensors, found, options)


def convert_checkpoint(
    path: Path | str,
    out: Path | str,
    stats: FeatureStats | None = None,
    trust: bool = False,
    average: bool | None = None,
    **options: Any,
) -> Path:
    """Write a published checkpoint as safetensors, its sizes and statistics in the header.

    Beside it, a JSON file says the same to people. Text encoders, ControlNets and sinusoids are
    left out, an evaluator inside is kept. Where no statistics are known, none are written, and
    they have to be given at each opening.

    Args:
        path: What to convert.
        out: A name that ends in ``.safetensors``.
        stats: See :func:`open_checkpoint`.
        trust: See :func:`open_checkpoint`.
        average: See :func:`open_checkpoint`.
        options: See :func:`open_checkpoint`.

    Raises:
        ValueError: As :func:`open_checkpoint`, or ``out`` has another ending.
    """
    path, out = Path(path), Path(out)
    if out.suffix != ".safetensors":
        raise ValueError(f"{out} should end in .safetensors")
    tensors, _ = _weights(path, trust, average)
    found = stats or _stats_beside(path)
    config = dict(_made(path, tensors, found, options).config)
    if found is None:
        del config["mean"], config["std"]
    content = {"model": _name(path, tensors), "source": path.name, "network": config}
    kept = {k: v for k, v in tensors.items() if _part(k) not in PASSED_OVER and k not in UNREAD}
    save_tensors(out, kept, content)
    write_json(out.with_suffix(".json"), content)
    return out


def _weights(
    path: Path, trust: bool, average: bool | None
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """All tensors of a file, averaged or not; and what is to be said of that choice."""
    tensors = read_checkpoint(path, trust)
    if not all(name.startswith(("model.", "model_avg.")) for name in tensors):
        if average:
            raise ValueError(f"{path} holds no averaged weights: leave average out")
        return tensors, ()
    chosen = bool(_beside(path).get("use_ema", False)) if average is None else average
    prefix, other = ("model_avg.", "model") if chosen else ("model.", "model_avg")
    own = part(tensors, prefix)
    if len(own) == len(tensors):
        return own, ()
    return own, (f"weights are those of {prefix[:-1]}; {other} is in it too",)


def _name(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """The known model that a file is of."""
    name = looks_like(tensors)
    if name is None:
        some = ", ".join(sorted(tensors)[:3])
        raise ValueError(f"{path} holds {len(tensors)} tensors ({some} ..) of no model known here")
    return name


def _made(
    path: Path, tensors: Mapping[str, Tensor], stats: FeatureStats | None, options: dict[str, Any]
) -> Model:
    """The model, filled; without statistics features are taken for normalised ones."""
    name = _name(path, tensors)
    if name not in KINDS:
        raise ValueError(f"{path} holds {name}: {ELSEWHERE.get(name, 'it was made here')}")
    kind, _ = KINDS[name]
    own = _own(kind, tensors)
    try:
        features, sizes = _features(own), _sizes(kind, own, path)
    except KeyError as error:
        raise ValueError(f"{path} holds {name}, but lacks {error.args[0]}") from error
    stats = stats or FeatureStats(torch.zeros(features), torch.ones(features))
    if len(stats.mean) != features:
        raise ValueError(
            f"{path} is of {features} features, the statistics are of {len(stats.mean)}: take "
            "those of the data set that it was trained on"
        )
    try:
        network = kind(stats.mean.tolist(), stats.std.tolist(), **{**sizes, **options})
    except TypeError as error:
        raise ValueError(f"{path} holds {name}: {error}") from error
    fit(network, own, path)
    return network.eval()


def _own(kind: type[Any], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights that the model reads, by its names; strangers stay, to be refused."""
    if kind in (OfficialMDM, MotionDiffuse):
        mine = {k: v for k, v in tensors.items() if _part(k) == "network"}
    else:
        mine = {k: v for k, v in tensors.items() if k.startswith(("vae.", "denoiser."))}
    if kind is MotionDenoiser:
        mine = {k.removeprefix("denoiser."): v for k, v in mine.items()}
    return {k: v for k, v in mine.items() if k not in UNREAD and not k.endswith("mem_pos.pe")}


def _sizes(kind: type[Any], own: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    """Arguments of the model's class, but for statistics; what was written down goes first."""
    sizes = kind.sizes({name: tuple(tensor.shape) for name, tensor in own.items()})
    if kind is OfficialMDM:
        said = _beside(path)
        if (schedule := said.get("noise_schedule", "cosine")) != "cosine":
            raise ValueError(f"{path}: its args.json asks for the noise schedule {schedule!r}")
        known = ("emb_trans_dec", "mask_frames", "diffusion_steps")
        sizes |= {name: said[name] for name in known if name in said}
        if "text_encoder_type" in said:
            sizes["words"] = said["text_encoder_type"] == "bert"
    written = _header(path).get("network", {})
    return sizes | {k: v for k, v in written.items() if k not in ("mean", "std")}


def _shapes(kind: type[Any], sizes: dict[str, Any], features: int) -> dict[str, torch.Size]:
    with torch.device("meta"):
        network = kind([0.0] * features, [1.0] * features, **sizes)
    return {name: tensor.shape for name, tensor in network.state_dict().items()}


def _features(own: Mapping[str, Tensor]) -> int:
    for name, tensor in own.items():
        if name.endswith(INPUTS):
            return tensor.shape[1]
    raise KeyError("the layer that reads features")


def _part(name: str) -> str:
    return next((kind for start, kind in PARTS.items() if name.startswith(start)), "network")


def _header(path: Path) -> dict[str, Any]:
    """What :func:`convert_checkpoint` wrote into a file; nothing in any other."""
    if path.suffix != ".safetensors":
        return {}
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            config = json.loads((file.metadata() or {}).get("config", "{}"))
    except (OSError, SafetensorError, ValueError) as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
    return config if isinstance(config, dict) else {}


def _beside(path: Path) -> dict[str, Any]:
    """The args.json of an MDM's folder."""
    file = path.parent / "args.json"
    if not file.exists():
        return {}
    try:
        said = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} is no JSON: {error}") from error
    if not isinstance(said, dict):
        raise ValueError(f"{file} holds a {type(said).__name__}, expected names and values")
    return said


def _stats_beside(path: Path) -> FeatureStats | None:
    """Statistics in a converted file, or in the files that stand beside a published one."""
    written = _header(path).get("network", {})
    if "mean" in written and "std" in written:
        return FeatureStats(torch.tensor(written["mean"]), torch.tensor(written["std"]))
    for folder in (path.parent, path.parent / "meta", path.parent.parent / "meta"):
        for names in (("Mean.npy", "Std.npy"), ("mean.npy", "std.npy")):
            if all((folder / name).exists() for name in names):
                return read_pair(folder / names[0], folder / names[1])
    return None


def read_pair(mean: Path, std: Path) -> FeatureStats:
    """Statistics from two .npy files, whatever their names and the data set.

    Raises:
        ValueError: One cannot be read, or they do not belong together; one line.
    """
    try:
        m, s = (array_in(file.read_bytes()).astype(np.float32) for file in (mean, std))
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(f"{mean} and {std} are no arrays: {error}") from error
    if m.ndim != 1 or m.shape != s.shape or not np.isfinite(m).all() or not (s > 0).all():
        raise ValueError(f"{mean} {m.shape} and {std} {s.shape} are no mean and std of features")
    return FeatureStats(torch.from_numpy(m), torch.from_numpy(s))


def _flat(sizes: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in sizes.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", value
