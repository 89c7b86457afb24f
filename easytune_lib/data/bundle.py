"""The packed bundle of real motion: ``<part>_motion.npz`` and ``<part>_clips.jsonl``."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from easytune_lib.data.corpus import Caption, Clip, Corpus, Problem
from easytune_lib.motion import features, skeleton
from easytune_lib.motion.arrays import arrays_in
from easytune_lib.motion.features import to_features
from easytune_lib.motion.skeleton import HUMANML3D

MIN_JOINT_FRAMES = 21  # 20 frames of features


def read_bundle(
    root: Path | str, parts: Sequence[str] = ("bnr",), cache: Path | None = None
) -> Corpus:
    """Clips of one or several parts, as HumanML3D features.

    Args:
        root: Folder of the bundle.
        parts: ``"bnr"`` (labels "content|style") and ``"cmu"`` (no labels).
        cache: Folder in which computed features are kept, and found again as long as neither
            the packed file nor the feature code has changed. A part of 4 hours takes 6 s
            without it.

    Returns:
        A corpus whose ``problems`` name each clip that is too short to be used.

    Raises:
        ValueError: A file is missing, cut, or the two files of a part do not fit together.
    """
    root = Path(root)
    clips: list[Clip] = []
    problems: list[Problem] = []
    for part in parts:
        records = _records(root, part)
        packed = root / f"{part}_motion.npz"
        for record, rows in zip(records, _features(packed, records, cache), strict=True):
            if rows is None:
                what = f"clip {record['id']} has {record['frames']} frames, fewer than "
                problems.append(Problem(packed.name, f"{what}{MIN_JOINT_FRAMES}", "length"))
                continue
            captions = tuple(
                Caption(t["caption"], t["tokens"], t["start"], t["end"]) for t in record["texts"]
            )
            label = f"{record['content']}|{record['style']}" if "content" in record else ""
            clips.append(Clip(record["id"], record["split"], rows, captions, label))
    return Corpus("+".join(parts), HUMANML3D, HUMANML3D.fps, tuple(clips), tuple(problems))


def _records(root: Path, part: str) -> list[dict[str, Any]]:
    path = root / f"{part}_clips.jsonl"
    if not path.is_file():
        there = sorted(p.name.removesuffix("_clips.jsonl") for p in root.glob("*_clips.jsonl"))
        raise ValueError(f"{root} has no part {part!r}: {path.name} is missing; parts: {there}")
    records = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = {}
        if not _is_record(record):
            raise ValueError(f"{path}, line {number} is cut or no clip record: fetch it again")
        records.append(record)
    return records


def _is_record(record: Any) -> bool:
    """Whether a line has all that is read of it, of the right kinds."""
    kinds = {"id": str, "split": str, "frames": int, "texts": list}
    said = {"caption": str, "tokens": str, "start": int | float, "end": int | float}
    return (
        isinstance(record, dict)
        and all(isinstance(record.get(name), kind) for name, kind in kinds.items())
        and all(
            isinstance(text, dict)
            and all(isinstance(text.get(name), kind) for name, kind in said.items())
            for text in record["texts"]
        )
        and ("content" in record) == ("style" in record)
    )


def _features(
    packed: Path, records: list[dict[str, Any]], cache: Path | None
) -> list[Float32[np.ndarray, "frames 263"] | None]:
    """Features of each record's clip; None where it is too short."""
    content = packed.read_bytes() if packed.is_file() else b""
    try:
        arrays = arrays_in(content)
        ids, lengths, dq = arrays["ids"], arrays["length"], arrays["dq"]
        step = float(arrays["step"])
        if lengths.ndim != 1 or dq.shape != (lengths.sum(), HUMANML3D.n_joints, 3):
            raise ValueError(f"lengths {lengths.shape} for positions {dq.shape}")
        if ids.shape != lengths.shape or lengths.min(initial=1) < 1 or not 0 < step < 1:
            raise ValueError(
                f"{len(ids)} names, a shortest clip of {lengths.min(initial=1)} frames"
            )
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise ValueError(f"{packed} is missing, cut or no packed motion: {error}") from error
    wanted = [(record["id"], record["frames"]) for record in records]
    if wanted != list(zip(ids.tolist(), lengths.tolist(), strict=True)):
        raise ValueError(f"{packed} and its _clips.jsonl list other clips; fetch both again")
    long = lengths >= MIN_JOINT_FRAMES
    ends = np.cumsum(np.where(long, lengths - 1, 0))

    def compute() -> np.ndarray:
        starts = np.cumsum(lengths) - lengths
        clips = (dq[a : a + n] for a, n in zip(starts[long], lengths[long], strict=True))
        return np.concatenate(
            [to_features((c.cumsum(0, np.int64) * step).astype(np.float32)) for c in clips]
        )

    rows = _cached(cache, packed.stem, content, compute)
    return [
        rows[end - n + 1 : end] if n >= MIN_JOINT_FRAMES else None
        for n, end in zip(lengths, ends, strict=True)
    ]


def _cached(
    folder: Path | None, name: str, content: bytes, compute: Callable[[], np.ndarray]
) -> np.ndarray:
    """``compute()``, kept in ``folder`` under the hash of the data and of the feature code."""
    if folder is None:
        return compute()
    code = [Path(str(module.__file__)).read_bytes() for module in (features, skeleton)]
    digest = hashlib.sha256(b"".join([content, *code])).hexdigest()[:16]
    path = folder / f"{name}-{digest}.npy"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.tmp")
        with part.open("wb") as file:
            np.save(file, compute())
        os.replace(part, path)
    return np.load(path)
