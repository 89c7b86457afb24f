"""Run records: the numbers behind every figure, on disk, without any model."""

import hashlib
import json
import platform
import re
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from easytune_lib.storage import write_json

SCHEMA = 1


@dataclass(frozen=True)
class RunRecord:
    """One finished run. ``run_id`` depends on name and parameters only.

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
        """Write ``runs/<run_id>/record.json`` atomically; adds versions and the date."""
        stamp = {
            "python": platform.python_version(),
            "platform": platform.machine(),
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        content = asdict(self) | {"machine": stamp | self.machine}
        return write_json(Path(runs) / self.run_id / "record.json", content)

    @classmethod
    def load(cls, path: Path) -> "RunRecord":
        """Read a record (the file, or the folder that holds it).

        Raises:
            ValueError: The file is missing, not JSON, or of a newer schema.
        """
        path = Path(path) / "record.json" if Path(path).is_dir() else Path(path)
        try:
            content = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not a readable run record: {error}") from error
        schema = content.get("schema") if isinstance(content, dict) else None
        if schema != SCHEMA:
            raise ValueError(f"{path} has schema {schema}, this version reads {SCHEMA}")
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


def run_id(name: str, parameters: dict[str, Any]) -> str:
    """The id of the run ``name`` with ``parameters``."""
    text = json.dumps([name, parameters], sort_keys=True)
    return f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
