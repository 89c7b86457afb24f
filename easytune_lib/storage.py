"""Files that are either whole or absent: every artifact is written beside its place and renamed."""

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

Value = TypeVar("Value")


def write_atomic(path: Path, content: bytes) -> Path:
    """Write ``content`` so that a kill leaves the old file, or the new one, never a part.

    Raises:
        OSError: The disk is full, the folder may not be written or the like; says which file.
    """
    name = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException as error:
        if name:
            Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _unwritten(error, path) from error
        raise
    return path


def _unwritten(error: OSError, path: Path) -> OSError:
    """The same error, of its class, with the file's own name and the way out."""
    what = f"{error.strerror} (nothing was changed; make room or choose another place, then resume)"
    return OSError(error.errno, what, str(path))


def write_json(path: Path, content: Any) -> Path:
    """Write JSON with sorted keys, atomically; NaN and infinity are refused."""
    text = json.dumps(content, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False)
    return write_atomic(path, (text + "\n").encode())


def save_tensors(path: Path, tensors: dict[str, Tensor], config: dict[str, Any]) -> Path:
    """Write tensors and a JSON-able ``config`` into one safetensors file, atomically."""
    plain = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    return write_atomic(path, save(plain, {"config": json.dumps(config, sort_keys=True)}))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`save_tensors` wrote. No code is ever run from the file.

    Raises:
        ValueError: The file is missing, truncated, or not one of ours; says which.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            config = json.loads((file.metadata() or {}).get("config", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} has no `config` in its header: it was not written by easytune")
    return tensors, config


def weights_folder() -> Path:
    """The shipped weights: those in an installed package, or the checkout's ``weights``."""
    package = Path(__file__).parent
    inside = package / "weights"
    return inside if inside.is_dir() else package.parent / "weights"


def workspace(root: Path, folder: Path, notebook: Path) -> Path:
    """Make a folder where a notebook finds a checkout and changes nothing in it.

    Records are copied there, figures begin empty, and all else is linked to the checkout.

    Args:
        root: The checkout.
        folder: Where to; what it holds is replaced.
        notebook: A notebook below ``root``.

    Returns:
        The working directory for the notebook, as far below ``folder`` as it was below ``root``.
    """
    root, below = root.resolve(), notebook.resolve().parent.relative_to(root.resolve())
    shutil.rmtree(folder, ignore_errors=True)
    (folder / below).mkdir(parents=True)
    (folder / "figures").mkdir(exist_ok=True)
    if (root / "runs").is_dir():
        shutil.copytree(root / "runs", folder / "runs", dirs_exist_ok=True)
    (root / "outputs").mkdir(exist_ok=True)
    for level in (below, *below.parents):
        for path in (root / level).iterdir():
            link = folder / level / path.name
            if not link.exists() and not path.name.startswith("."):
                link.symlink_to(path)
    return folder / below


def part(tensors: Mapping[str, Value], prefix: str) -> dict[str, Value]:
    """What (tensors, or their shapes) has names that begin with ``prefix``, without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def pack_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimizer's running state as plain tensors, named ``optimizer.<index>.<key>``."""
    return {
        f"optimizer.{index}.{key}": value
        for index, state in optimizer.state_dict()["state"].items()
        for key, value in state.items()
    }


def unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Undo :func:`pack_optimizer`; other tensors are ignored, rates are left as they are."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in part(tensors, "optimizer.").items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


@contextmanager
def alone(folder: Path, what: str = "run") -> Iterator[None]:
    """Hold ``folder`` for this process alone; a kill lets go of it.

    Args:
        folder: It is made where it is not there.
        what: Names in an error who else may be at work.

    Raises:
        ValueError: Another process holds it.
        OSError: It may not be written, or its disk is full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = (folder / ".lock").open("w")
    except OSError as error:
        raise _unwritten(error, folder) from error
    with held as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(
                f"another {what} is at work in {folder}: wait for it, or end it"
            ) from error
        yield


RESULTS = "EASYTUNE_RESULTS"
"""Variable of the environment that names a folder for records and figures of trials."""


def results_folder(folder: Path | str) -> Path:
    """Where what belongs in ``runs`` or ``figures`` is written: in a trial, in a folder apart.

    Tests and runs with parameters given by hand set :data:`RESULTS`, so that they never change
    what the repository holds. Other folders are as they are.
    """
    place, folder = os.environ.get(RESULTS), Path(folder)
    return Path(place) / folder.name if place and folder.name in ("runs", "figures") else folder
