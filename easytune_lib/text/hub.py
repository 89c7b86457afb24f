"""Where a text model lies: in a folder, or on the hub by id and revision; never code, only weights.

Nothing here writes but huggingface_hub, which draws a bar while it downloads.
"""

import hashlib
from pathlib import Path

FILES = (
    "config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json",
    "vocab*", "merges.txt", "spiece.model",
)  # fmt: skip
WEIGHTS = ("model*.safetensors*", "pytorch_model*.bin*")  # the first that is there is read

DENSE = ("model.safetensors", "pytorch_model.bin")  # of a dense layer, likewise


def find_text_model(source: str, revision: str = "main", dense: str = "") -> Path:
    """The folder of a text model.

    What the hub's cache holds is taken as it is, without the network: a branch that has moved on
    since is not followed until the cache is emptied.

    Args:
        source: A folder, or a hub id.
        revision: A branch, tag or commit of the hub; not read for a folder.
        dense: A sub-folder that is needed, too.

    Raises:
        ValueError: It is neither in a folder nor in the cache, and cannot be fetched; one line.
    """
    if Path(source).is_dir():
        return Path(source)
    return cached_text_model(source, revision, dense) or fetch_text_model(source, revision, dense)


def name_text_model(source: str, revision: str = "main", dense: str = "") -> str:
    """A name that no other model has, nor this one once its weights change.

    A folder is named by a digest of the files that are read, a hub id by the commit that
    ``revision`` is.

    Raises:
        ValueError: See :func:`find_text_model`.
    """
    folder = find_text_model(source, revision, dense)
    if Path(source).is_dir():
        return f"{folder.name}@sha256:{digest_of(folder, dense)[:16]}"
    return f"{source}@{folder.name[:12]}"


def fetch_text_model(
    source: str, revision: str = "main", dense: str = "", to: Path | None = None
) -> Path:
    """Download a text model and its tokenizer from the hub; goes on where it was cut off.

    Args:
        source: A hub id.
        revision: A branch, tag or commit.
        dense: A sub-folder to take along.
        to: A folder to put it in; ``None``: the hub's cache.

    Raises:
        ValueError: It does not exist or cannot be reached; one line.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HTTPError  # pyright: ignore[reportPrivateImportUsage]

    try:
        names = HfApi().list_repo_files(source, revision=revision)
        formats = ["model.safetensors", "model.safetensors.index.json"]
        weights = WEIGHTS[0] if any(name in names for name in formats) else WEIGHTS[1]
        patterns = _patterns(weights, dense)
        return Path(
            snapshot_download(source, revision=revision, allow_patterns=patterns, local_dir=to)
        )
    except (OSError, ValueError, HTTPError) as error:
        what = " ".join(str(error).split())[:200]
        raise ValueError(
            f"the text model {source!r} ({revision}) is no folder, is not in the hub's cache, and "
            f"could not be fetched ({type(error).__name__}: {what}): give a folder that holds it"
        ) from error


def digest_of(folder: Path, dense: str = "") -> str:
    """SHA-256 of the names and contents of all that is read from a text model's folder.

    Seconds for weights of gigabytes.
    """
    weights = next((pattern for pattern in WEIGHTS if any(folder.glob(pattern))), WEIGHTS[0])
    files = {file for pattern in _patterns(weights, dense) for file in folder.glob(pattern)}
    total = hashlib.sha256()
    for file in sorted(files):
        with file.open("rb") as content:
            one = hashlib.file_digest(content, "sha256").hexdigest()
        total.update(f"{file.relative_to(folder).as_posix()} {one}\n".encode())
    return total.hexdigest()


def cached_text_model(source: str, revision: str = "main", dense: str = "") -> Path | None:
    """The folder in the hub's cache, if it is there and holds weights."""
    from huggingface_hub import snapshot_download

    for weights in WEIGHTS:
        patterns = _patterns(weights, dense)
        try:
            folder = snapshot_download(
                source, revision=revision, allow_patterns=patterns, local_files_only=True
            )
        except (OSError, ValueError):  # it is not there, not whole, or `source` is no id
            continue
        if any(Path(folder).glob(weights)):
            return Path(folder)
    return None


def _patterns(weights: str, dense: str) -> list[str]:
    layer = [f"{dense}/{name}" for name in DENSE] if dense else []
    return [*FILES, weights, *layer]
