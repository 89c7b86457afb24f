"""A file from elsewhere: gone on with where it was cut, checked, and in place only when whole."""

import hashlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

BLOCK = 1 << 20  # bytes read at once


class ConnectionLost(ValueError):
    """The network failed, not the file: the same call can be tried again."""


@dataclass(frozen=True)
class Received:
    """How far a download is."""

    done: int  # bytes
    total: int | None  # bytes, if the server says so
    pace: float  # bytes a second, in this run

    @property
    def eta(self) -> float | None:
        """Seconds left, if the total is known."""
        if self.total is None or not self.pace:
            return None
        return (self.total - self.done) / self.pace


def download(
    url: str, file: Path, checksum: str = "", size: int | None = None
) -> Iterator[Received]:
    """Fetch ``url``; yields after each block, and is done when it ends.

    What comes is written beside ``file`` and renamed at the end. If it is cut off, the same call
    goes on where it stopped, provided that the server sends parts and still has the same version;
    otherwise it begins anew.

    Args:
        url: Of the file itself, not of a page about it.
        file: Where to put it.
        checksum: As :func:`verify` takes it.
        size: Bytes, if published; of more, no more is read.

    Raises:
        ConnectionLost: The server cannot be reached, or the connection dropped.
        ValueError: It is not there, or is not what was published (nothing is left behind then);
            one line that says what to do.
    """
    part, version = file.with_name(f".{file.name}.part"), file.with_name(f".{file.name}.version")
    file.parent.mkdir(parents=True, exist_ok=True)
    have = part.stat().st_size if part.exists() and version.exists() else 0
    headers = {"User-Agent": "easytune", "Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": version.read_text()}
    try:
        answer: HTTPResponse = urlopen(Request(url, headers=headers), timeout=60)
    except HTTPError as error:
        error.close()
        if error.code != 416 or not have:  # 416: there are no bytes from there on
            raise ValueError(f"{url}: the server says {error.code} ({error.reason})") from error
        part.unlink()
        yield from download(url, file, checksum, size)
        return
    except (URLError, OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise ConnectionLost(f"{url} cannot be reached ({reason}): is there a network?") from error
    with answer:
        if answer.headers.get_content_type() == "text/html":
            raise ValueError(f"{url} is a page, not a file: open it in a browser")
        if answer.status != 206:
            have = 0
        length = answer.headers.get("Content-Length")
        total = None if length is None else have + int(length)
        _remember(version, answer)
        done, began = have, time.monotonic()
        try:
            with part.open("ab" if have else "wb") as kept:
                while block := answer.read(BLOCK):
                    kept.write(block)
                    done += len(block)
                    if size is not None and done > size:
                        break
                    seconds = max(time.monotonic() - began, 1e-9)
                    yield Received(done, total, (done - have) / seconds)
        except (OSError, HTTPException) as error:
            raise ConnectionLost(_cut(url, done, total)) from error
    more = size is not None and done > size
    if not more and total is not None and done != total:
        raise ConnectionLost(_cut(url, done, total))
    try:
        if more:
            raise ValueError(f"it has more than the {size} bytes that were published")
        verify(part, checksum)
    except ValueError as error:
        part.unlink()
        raise ValueError(f"{url}: {error}: nothing was kept") from error
    finally:
        version.unlink(missing_ok=True)
    os.replace(part, file)


def verify(file: Path, checksum: str) -> None:
    """Refuse a file that is not the published one.

    Args:
        file: What to look at.
        checksum: ``sha256:`` or ``md5:`` and the digest; empty where none was published.

    Raises:
        ValueError: The digest is another one; says both.
    """
    if not checksum:
        return
    kind, _, expected = checksum.partition(":")
    with file.open("rb") as content:
        found = hashlib.file_digest(content, kind).hexdigest()
    if found != expected:
        raise ValueError(f"its {kind} is {found}, expected {expected}")


def _remember(version: Path, answer: HTTPResponse) -> None:
    """Keep what tells one version of a file from the next, to go on with the same one only."""
    said = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
    if said and not said.startswith("W/"):
        version.write_text(said)
    else:
        version.unlink(missing_ok=True)


def _cut(url: str, done: int, total: int | None) -> str:
    whole = "" if total is None else f" of {total}"
    return f"{url} was cut off after {done}{whole} bytes: the same command goes on from there"
