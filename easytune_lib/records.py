"""Run records: the numbers behind every figure, on disk, without any model."""

import hashlib
import json
import platform
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from easytune_lib.storage import results_folder, write_json

SCHEMA = 1

UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {
    0: lambda content: {"metrics": {}, "series": {}, "tables": {}, "machine": {}} | content,
}
"""What makes a record of one schema one of the next. Name and parameters stay, and so its id.

Schema 0 is that of records that name none: fields that were empty could be left out.
"""


class MissingRecord(ValueError):
    """A record that only a long run makes is not there; the runner says so and goes on."""


@dataclass(frozen=True)
class RunRecord:
    """One finished run. ``run_id`` depends on name and parameters only.

    >>> record = et.RunRecord("trial", {"k": 3}, metrics={"reward": 0.8})
    >>> et.RunRecord.load(record.save(tmp)).metrics["reward"]
    0.8

    ``metrics``, ``series`` and ``tables`` are the result and repeat exactly on one machine;
    what varies by machine (seconds, bytes, versions) is kept apart in ``machine``.
    """

    name: str  # lower case, digits and underscores
    parameters: dict[str, Any]
    metrics: dict[str, float | int] = field(default_factory=dict)
    series: dict[str, list[float]] = field(default_factory=dict)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9_]+", self.name):
            raise ValueError(
                f"a record's name is lower-case letters, digits and _, not {self.name!r}"
            )

    @property
    def run_id(self) -> str:
        """``name-hash(parameters)``: the folder that holds this run."""
        return run_id(self.name, self.parameters)

    def save(self, runs: Path) -> Path:
        """Write ``runs/<run_id>/record.json`` atomically; adds versions and the date.

        In a trial it goes elsewhere: :func:`~easytune_lib.storage.results_folder`.
        """
        stamp = {
            "python": platform.python_version(),
            "platform": platform.machine(),
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        content = asdict(self) | {"machine": stamp | self.machine}
        return write_json(results_folder(runs) / self.run_id / "record.json", content)

    @classmethod
    def load(cls, path: Path) -> "RunRecord":
        """Read a record (the file, or the folder that holds it), of this schema or an older one.

        Raises:
            ValueError: The file is missing, not JSON, no record, or of a newer schema.
        """
        path = Path(path) / "record.json" if Path(path).is_dir() else Path(path)
        content, schema = _read(path)
        for older in range(schema, SCHEMA):
            content = UPGRADES[older](content)
            content["schema"] = older + 1
        kinds = {"name": str, "parameters": dict, "metrics": dict, "series": dict, "tables": dict,
                 "machine": dict, "schema": int}  # fmt: skip
        if content.keys() != kinds.keys() or not all(
            isinstance(content[name], kind) for name, kind in kinds.items()
        ):
            raise ValueError(f"{path} is not a run record: expected the fields {', '.join(kinds)}")
        return cls(**content)

    @classmethod
    def find(cls, runs: Path, name: str, parameters: dict[str, Any]) -> "RunRecord | None":
        """The finished run with these parameters, if there is one."""
        path = Path(runs) / run_id(name, parameters) / "record.json"
        return cls.load(path) if path.exists() else None


def difference(old: Any, new: Any, where: str = "") -> tuple[float, str]:
    """The largest relative difference of two results' numbers, and where it is.

    Only ``metrics``, ``series`` and ``tables`` of a record count; what varies by machine does
    not. Numbers are compared by ``|a - b| / max(|a|, |b|, 1e-2)``; another shape or text is
    infinitely far.
    """
    if not where:
        parts = ("metrics", "series", "tables")
        pairs = [(old.get(name, {}), new.get(name, {}), name) for name in parts]
    elif isinstance(old, dict) and isinstance(new, dict) and old.keys() == new.keys():
        pairs = [(old[key], new[key], f"{where}.{key}") for key in old]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = [(a, b, where) for a, b in zip(old, new, strict=True)]
    elif isinstance(old, int | float) and isinstance(new, int | float):
        return abs(old - new) / max(abs(old), abs(new), 1e-2), where
    else:
        return (0.0 if old == new else float("inf")), where
    return max((difference(*pair) for pair in pairs), default=(0.0, where))


def schema_of(path: Path) -> int:
    """The schema that a record's file was written in.

    Raises:
        ValueError: As of :meth:`RunRecord.load`, but for what is in the fields.
    """
    return _read(path)[1]


def _read(path: Path) -> tuple[dict[str, Any], int]:
    """What is in a file, and its schema."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a readable run record: {error}") from error
    schema = content.get("schema", 0) if isinstance(content, dict) else None
    if type(schema) is not int or schema < 0:
        raise ValueError(f"{path} is not a run record: it has no schema, 0 to {SCHEMA}")
    if schema > SCHEMA:
        raise ValueError(
            f"{path} has schema {schema}, this version reads up to {SCHEMA}: a newer easytune "
            "wrote it, update this one"
        )
    return content, schema


@runtime_checkable
class Shown(Protocol):
    """What is made from a record: a figure, a table."""

    @property
    def kind(self) -> str:
        """Name of the records that it is made from."""
        ...

    @property
    def by(self) -> str:
        """The parameter of which the record that is shown has most."""
        ...


Entry = TypeVar("Entry", bound=Shown)


def leading(
    runs: Path, entries: Sequence[Entry], name_of: Callable[[Entry, RunRecord], str | None]
) -> dict[str, tuple[Entry, RunRecord]]:
    """What there is to show, by name, in the order of names: an entry and its record.

    Of several records that would give one name, that with the most in ``by`` is taken, of equal
    ones that with the most seeds, then the latest.

    Args:
        runs: The folder of records.
        entries: What may be shown.
        name_of: Of an entry and a record of its kind; ``None`` where it is not shown.

    Raises:
        ValueError: A record cannot be read.
    """
    found: dict[str, tuple[Any, Entry, RunRecord]] = {}
    for record in (RunRecord.load(path) for path in sorted(runs.glob("*/record.json"))):
        for entry in (entry for entry in entries if entry.kind == record.name):
            counts = (record.parameters.get(key, 0) for key in (entry.by, "seeds"))
            rank = (*counts, str(record.machine.get("created", "")))
            name = name_of(entry, record)
            if name is not None and (name not in found or rank > found[name][0]):
                found[name] = (rank, entry, record)
    return {name: found[name][1:] for name in sorted(found)}


def run_id(name: str, parameters: dict[str, Any]) -> str:
    """The id of the run ``name`` with ``parameters``."""
    text = json.dumps([name, parameters], sort_keys=True)
    return f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
