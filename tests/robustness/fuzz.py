"""Throw damaged files at every reader: each must be read rightly, or refused in one line."""

import io
import json
import os
import random
import re
import resource
import shutil
import signal
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from easytune_lib.app.notebook import parameters_of, read_notebook, read_settings
from easytune_lib.app.runner import ROOT
from easytune_lib.app.sweep import Sweep
from easytune_lib.checkpoints import read_checkpoint, rebuilt
from easytune_lib.data.asf import read_amc, read_asf
from easytune_lib.data.capture import Rig, cut_clip, to_humanml3d
from easytune_lib.data.files import read_bvh, read_npz, write_bvh, write_npz
from easytune_lib.data.humanml3d import (
    open_corpus,
    read_captions,
    read_folder,
    read_statistics,
)
from easytune_lib.data.synthetic import synthetic_corpus
from easytune_lib.experiments.study import Study, Vote, read_votes
from easytune_lib.extras.official.open import inspect_checkpoint, read_pair
from easytune_lib.extras.widgets.kept import FILE, keep_motions, kept_motions
from easytune_lib.metrics.report import Reference
from easytune_lib.models.mdm import MDM
from easytune_lib.motion.features import to_joints
from easytune_lib.motion.motion import Motion
from easytune_lib.motion.skeleton import HUMANML3D
from easytune_lib.records import RunRecord
from easytune_lib.seeding import stream
from easytune_lib.storage import save_tensors

SLOW = 10.0
"""Seconds that a small file may take to be read, after which the reader hangs."""

ROOM = 2**31
"""Bytes of address space that reading small files may add."""

LINE = 600
"""Characters that a refusal has at most."""

_EXTREME = (
    b"-1", b"0", b"NaN", b"Infinity", b"1e999", b"-0.0", b"99999999999999999999", b"2147483648",
    b"true", b"null", b"", b"[]", b"{}", b'""', b"../../etc/passwd", b"<script>alert(1)</script>",
)  # fmt: skip


@dataclass(frozen=True)
class Target:
    """A reader, and files that it reads.

    Args:
        name: As the record has it.
        make: Writes whole files into a folder.
        read: Reads what is in the folder, or refuses it by a ValueError of one line.
    """

    name: str
    make: Callable[[Path], object]
    read: Callable[[Path], object]


@dataclass(frozen=True)
class FuzzSize:
    """How many damaged inputs there are, shared evenly among the readers."""

    inputs: int = 10_000
    seed: int = 0


def fuzz(
    size: FuzzSize, say: Callable[[str], None], targets: Sequence[Target] | None = None
) -> RunRecord:
    """Damage files in ways drawn from a seed, and have them read.

    Bits are flipped, spans cut, doubled, moved and filled, numbers and strings made extreme, files
    cut short; within archives also the members, under right checksums. Readers work in processes
    of their own with bounded time and memory, so that a crash is a finding, not an end.

    Args:
        size: How much.
        say: Is given a line a reader.
        targets: All of :func:`all_targets` where ``None``.

    Returns:
        A record with ``tables["targets"]`` (inputs, how many were read, refused, found) and
        ``tables["findings"]``: what went wrong where, how often, and the first such input, which
        :func:`damaged` makes again.

    Raises:
        ValueError: A reader refuses the files before they are damaged.
    """
    targets = all_targets() if targets is None else targets
    torch.set_num_threads(1)  # a process with more cannot be copied
    rows, findings = [], []
    share = -(-size.inputs // len(targets))
    for target in targets:
        counts, found = Counter[str](), dict[tuple[str, str], dict[str, Any]]()
        with TemporaryDirectory(prefix="fuzz-") as name:
            top = Path(name)
            target.make(top / "whole")
            target.read(top / "whole")
            for index, (how, where, what) in enumerate(_answers(target, share, size.seed, top)):
                counts[how] += 1
                if how == "found":
                    first = {"target": target.name, "what": what, "where": where, "first": index}
                    found.setdefault((where, what[:40]), first | {"count": 0})["count"] += 1
        row = {key: counts[key] for key in ("read", "refused", "found")}
        rows.append({"target": target.name, "inputs": share, **row})
        findings += found.values()
        say("  ".join(f"{key} {value}" for key, value in rows[-1].items()))
        for finding in found.values():
            say(f"    {finding['count']} x {finding['where']}: {finding['what']}")
    return RunRecord(
        "fuzz", asdict(size), tables={"targets": rows, "findings": findings},
        metrics={name: sum(row[name] for row in rows) for name in ("inputs", *row)},
    )  # fmt: skip


def table(record: RunRecord) -> str:
    """The record in a line."""
    n = record.metrics
    return (
        f"{n['inputs']:g} inputs: {n['read']:g} read, {n['refused']:g} refused in a line, "
        f"{n['found']:g} neither, in {len(record.tables['findings'])} ways"
    )


def damaged(target: Target, index: int, seed: int, whole: Path, folder: Path) -> Path:
    """The files of ``whole`` in ``folder``, one of them damaged as number ``index`` has it."""
    rng = random.Random(f"{seed}/{target.name}/{index}")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = rng.choice(files)
    content = path.read_bytes()
    if content.startswith(b"PK") and rng.random() < 0.6:
        content = _damaged_member(content, rng)
    else:
        content = mutated(content, rng)
    path.write_bytes(content)
    return folder


def mutated(content: bytes, rng: random.Random) -> bytes:
    """One to six small damages, most of them near the start, where headers are."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 3, 6))):
        end = max(1, len(data))
        start = min(int(end * rng.random() ** rng.choice((1, 3))), end - 1)
        span = min(rng.choice((1, 1, 2, 4, 8, 64, 1024)), end - start)
        kind = rng.randrange(8)
        if kind == 0 and data:
            data[start] ^= 1 << rng.randrange(8)
        elif kind == 1 and data:
            data[start] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, 0x22, 0x5B, 0x7B))
        elif kind == 2:
            del data[start : start + span]
        elif kind == 3:
            data[start:start] = data[start : start + span] * rng.choice((1, 2, 50))
        elif kind == 4:
            data[start:start] = rng.randbytes(span)
        elif kind == 5:
            del data[start:]
        elif kind == 6:
            other = rng.randrange(end)
            data[start : start + span] = data[other : other + span]
        else:
            words = list(re.finditer(rb'"[^"]{0,40}"|-?\d+(\.\d+)?', bytes(data[:65536])))
            if words:
                word = rng.choice(words)
                data[word.start() : word.end()] = rng.choice(_EXTREME)
    return bytes(data)


def _damaged_member(content: bytes, rng: random.Random) -> bytes:
    """An archive with one member damaged, renamed or doubled, and its checksums right."""
    with zipfile.ZipFile(io.BytesIO(content)) as old:
        members = [(info.filename, old.read(info)) for info in old.infolist()]
    place = rng.randrange(len(members))
    name, inner = members[place]
    members[place] = (name, mutated(inner, rng))
    if rng.random() < 0.1:
        members[place] = (rng.choice(("../out", "/abs", name + "x", "x" * 300)), inner)
    if rng.random() < 0.1:
        members.append((name, inner))
    into = io.BytesIO()
    with zipfile.ZipFile(into, "w") as new:
        for name, inner in dict(members).items():
            new.writestr(name, inner)
    return into.getvalue()


def _answers(target: Target, count: int, seed: int, top: Path) -> Iterator[tuple[str, str, str]]:
    """How each input is answered, where and what; a reader that dies is started again behind it."""
    done = 0
    while done < count:
        log = top / "log"
        log.unlink(missing_ok=True)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                _read_all(target, range(done, count), seed, top, log)
                code = 0
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        lines = log.read_text().splitlines() if log.exists() else []
        for line in lines:
            how, where, what = json.loads(line)
            yield how, where, what
        done += len(lines)
        if done < count:
            yield "found", "the process", f"ended with status {status}"
            done += 1


def _read_all(target: Target, numbers: Sequence[int], seed: int, top: Path, log: Path) -> None:
    """In a process of its own: read each, and write a line about it."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    room = pages * resource.getpagesize() + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    with log.open("w") as file:
        for number in numbers:
            folder = damaged(target, number, seed, top / "whole", top / "damaged")
            file.write(json.dumps(answer(target, folder)) + "\n")
            file.flush()


def answer(target: Target, folder: Path) -> tuple[str, str, str]:
    """How a reader takes the files of a folder: "read", "refused" or "found"; where, and what."""
    try:
        with _limited(SLOW):
            target.read(folder)
    except ValueError as error:
        text = str(error)
        if "\n" not in text and len(text) <= LINE and not isinstance(error, UnicodeError):
            return "refused", "", ""
        return "found", _place(error), f"refused in {len(text)} characters: {text[:60]!r}"
    except TimeoutError:
        return "found", "", f"took more than {SLOW:g} seconds"
    except Exception as error:  # the very thing that is looked for
        return "found", _place(error), f"{type(error).__name__}: {str(error)[:100]}"
    return "read", "", ""


def _place(error: BaseException) -> str:
    """The last line of ours that an error went through."""
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__)
        if "easytune_lib" in frame.filename and "fuzz.py" not in frame.filename
    ]  # fmt: skip
    last = frames[-1] if frames else None
    return f"{Path(last.filename).name}, {last.name}" if last else "beside the library"


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    def late(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def all_targets() -> tuple[Target, ...]:
    """Every reader of what may come from strangers, with small files of its kind."""
    motion, network = _motion(), MDM(263, dim=8, layers=1)
    weights = network.state_dict()

    votes = "".join(
        Vote("study", "ann", pair, "left", 1.5, datetime(2026, 1, 1, tzinfo=UTC)).line + "\n"
        for pair in range(3)
    )
    reference = Reference(torch.zeros(4), torch.eye(4), 9)
    study = Study(("base", "tuned"), ("hop",), torch.tensor([4]), torch.zeros(2, 1, 4, 263), 0)
    return (
        _of_file("record", "record.json", _write_record, RunRecord.load),
        _of_file("safetensors checkpoint", "a.safetensors",
                 lambda p: save_tensors(p, weights, {"network": {}}), read_checkpoint),
        _of_file("checkpoint", "a.pt", lambda p: torch.save({"state_dict": weights}, p),
                 read_checkpoint),
        _of_file("old checkpoint", "a.tar", lambda p: torch.save(
            weights, p, _use_new_zipfile_serialization=False), read_checkpoint),
        _of_file("inspected checkpoint", "a.safetensors",
                 lambda p: save_tensors(p, _official(), {}), inspect_checkpoint),
        _of_file("reference", "a.safetensors", reference.save, Reference.load),
        _of_file("network", "a.safetensors",
                 lambda p: save_tensors(p, weights, {"network": network.config}),
                 lambda p: rebuilt(MDM, p)),
        _of_file("study", "a.safetensors", study.save, Study.load),
        _of_file("votes", "v.jsonl", lambda p: p.write_text(votes), read_votes),
        _of_file("BVH", "a.bvh", lambda p: write_bvh(motion, p), read_bvh),
        Target("imported BVH", _write_bvh_and_map, _import_bvh),
        Target("ASF and AMC", _write_asf,
               lambda folder: read_amc(folder / "a.amc", read_asf(folder / "a.asf"), 120.0)),
        _of_file("captions", "a.txt", lambda p: p.write_text("a hop.\na hop.#a/DET#0.0#1.5\n"),
                 read_captions),
        _of_file("npz", "a.npz", lambda p: write_npz(motion, p), read_npz),
        _of_file("kept motions", FILE, lambda p: keep_motions(p.parent, {"base": motion}),
                 lambda p: kept_motions(p.parent)),
        Target("statistics", _write_statistics, read_statistics),
        Target("pair of statistics", _write_statistics,
               lambda folder: read_pair(folder / "Mean.npy", folder / "Std.npy")),
        Target("HumanML3D folder", _write_folder, read_folder),
        Target("bundle", _write_bundle, open_corpus),
        _of_file("notebook", "n.ipynb", lambda p: p.write_text(_SMALL_NOTEBOOK),
                 lambda p: parameters_of(read_notebook(p))),
        _of_file("notebook parameters", "p.yaml",
                 lambda p: p.write_text("base: mdm\nn_steps: 20\nseconds: 2.5\n"),
                 lambda p: read_settings(p, _declared())),
        _of_file("sweep", "s.yaml", lambda p: p.write_text(_SWEEP),
                 lambda p: Sweep.read(p, ROOT)),
    )  # fmt: skip


def _of_file(
    name: str, file: str, write: Callable[[Path], object], read: Callable[[Path], object]
) -> Target:
    """A reader of one file."""

    def make(folder: Path) -> None:
        folder.mkdir(parents=True)
        write(folder / file)

    return Target(name, make, lambda folder: read(folder / file))


_SMALL_NOTEBOOK = json.dumps({
    "nbformat": 4, "nbformat_minor": 5, "metadata": {},
    "cells": [
        {"cell_type": "markdown", "id": "a", "metadata": {}, "source": ["# Why?\n", "\n", "So."]},
        {"cell_type": "code", "id": "b", "metadata": {"tags": ["parameters"]}, "outputs": [],
         "execution_count": None,
         "source": ["n: int = 3  # how many\n", "lr: float = 1e-4  # so far\n"]},
    ],
})  # fmt: skip
_SWEEP = """notebook: single_run
grid:
  method: [EasyTune, ReFL]
  lr: [5.0e-05, 0.0005]
given: {base: mdm, seconds: 2.0}
choose: lr
by: validation_mm_dist
"""


def _motion() -> Motion:
    features = torch.from_numpy(synthetic_corpus(clips=6).clips[0].features[:30])
    joints = to_joints(features, HUMANML3D).numpy().astype(np.float32)
    return Motion(joints, HUMANML3D.fps, HUMANML3D, "hop")


def _declared() -> Sequence[Any]:
    return parameters_of(read_notebook(ROOT / "notebooks" / "studies/single_run.ipynb"))


def _write_record(path: Path) -> object:
    record = RunRecord(
        "demo", {"lr": 1e-4}, {"r1": 0.5}, {"reward": [0.1, 0.2]}, {"rows": [{"a": 1}]}
    )
    return record.save(path.parent.parent / "made").replace(path)


def _official() -> dict[str, torch.Tensor]:
    """Names by which a file looks like the VAE of MLD."""
    rng = stream(0, "fuzz")
    names = ("global_motion_token", "query_pos_decoder.pe", "skel_embedding.weight")
    return {f"vae.{name}": torch.randn(2, 1, 8, generator=rng) for name in names}


def _write_statistics(folder: Path) -> None:
    folder.mkdir(parents=True)
    np.save(folder / "Mean.npy", np.zeros(263, np.float32))
    np.save(folder / "Std.npy", np.ones(263, np.float32))


def _write_bvh_and_map(folder: Path) -> None:
    folder.mkdir(parents=True)
    write_bvh(_motion(), folder / "a.bvh")
    joints = {joint: joint for joint in HUMANML3D.joints}
    (folder / "map.json").write_text(json.dumps({"joints": joints, "foot_pitch": 9.5, "skip": 1}))


def _import_bvh(folder: Path) -> object:
    rig = Rig.read(folder / "map.json")
    return cut_clip(to_humanml3d(read_bvh(folder / "a.bvh"), rig))


def _write_asf(folder: Path) -> None:
    """A root and two bones."""
    folder.mkdir(parents=True)
    (folder / "a.asf").write_text(_ASF)
    frame = "root 0 17 0 0 90 0\nlfemur 10.5 -3e-2 1\nltibia 20\n"
    text = "".join(f"{number}\n{frame}" for number in range(1, 9))
    (folder / "a.amc").write_text(f"#!OML:ASF\n:FULLY-SPECIFIED\n:DEGREES\n{text}")


_ASF = """:version 1.10
:units
  length 0.45
  angle deg
:root
  order TX TY TZ RX RY RZ
  axis XYZ
  position 0 0 0
  orientation 0 0 0
:bonedata
  begin
    name lfemur
    direction 0.34 -0.94 0
    length 7.5
    axis 0 0 20 XYZ
    dof rx ry rz
    limits (-160.0 20.0)
           (-70.0 70.0)
           (-60.0 70.0)
  end
  begin
    name ltibia
    direction 0.34 -0.94 0
    length 7.7
    axis 0 0 20 XYZ
    dof rx
  end
:hierarchy
  begin
    root lfemur
    lfemur ltibia
  end
"""


def _write_folder(folder: Path) -> None:
    """HumanML3D's layout, two clips."""
    for name in ("new_joint_vecs", "texts"):
        (folder / name).mkdir(parents=True)
    for number, clip in enumerate(synthetic_corpus(clips=2).clips):
        rows = np.resize(clip.features, (48, 263))
        np.save(folder / "new_joint_vecs" / f"{number:06}.npy", rows)
        (folder / "texts" / f"{number:06}.txt").write_text("a hop.#a/DET hop/NOUN#0.0#0.0\n")
    for split, name in (("train", "000000"), ("test", "000001")):
        (folder / f"{split}.txt").write_text(f"{name}\n")


def _write_bundle(folder: Path) -> None:
    folder.mkdir(parents=True)
    motion, step = _motion(), 0.00025
    frames = len(motion)
    whole = np.round(motion.joints / step).astype(np.int64)
    moved = np.diff(whole, axis=0, prepend=0).astype(np.int16)
    np.savez(
        folder / "bnr_motion.npz", ids=["hop"], dq=moved,
        length=np.array([frames], np.int32), step=step, fps=20,
    )  # fmt: skip
    said = {"caption": "a hop.", "tokens": "hop/NOUN", "start": 0.0, "end": 0.0}
    record = {"id": "hop", "split": "train", "frames": frames, "texts": [said],
              "content": "hop", "style": "high"}  # fmt: skip
    (folder / "bnr_clips.jsonl").write_text(json.dumps(record) + "\n")
