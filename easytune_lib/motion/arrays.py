"""Arrays in files of strangers: no code is run, and sizes are checked before memory is taken."""

import io
import zipfile
from math import prod

import numpy as np
from numpy.lib import format as npy

LARGEST = 2**31
"""Bytes that an archive unpacks to at most."""

_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def array_in(content: bytes) -> np.ndarray:
    """The array of a ``.npy`` file.

    Raises:
        ValueError: It is empty, cut, or holds something else than numbers or text.
    """
    file = io.BytesIO(content)
    try:
        shape, by_column, dtype = _HEADERS[npy.read_magic(file)](file)
        start = file.tell()
        if dtype.hasobject or prod(shape) * dtype.itemsize != len(content) - start:
            raise ValueError(f"{len(content) - start} bytes for {dtype} of shape {shape}")
        flat = np.frombuffer(content, dtype, prod(shape), start) if prod(shape) else []
        return np.array(flat, dtype).reshape(shape, order="F" if by_column else "C")
    except Exception as error:  # of any kind: damaged bytes decide what goes wrong
        raise ValueError(f"no array of numbers ({_line(error)})") from error


def arrays_in(content: bytes, largest: int = LARGEST) -> dict[str, np.ndarray]:
    """The arrays of a ``.npz`` file by name.

    Args:
        content: Of the file.
        largest: Bytes that it unpacks to at most.

    Raises:
        ValueError: It is cut, no archive of arrays, or unpacks to more.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as packed:
            members = packed.infolist()
            if sum(member.file_size for member in members) > largest:
                raise ValueError(f"unpacks to more than {largest >> 20} MiB")
            raw = {member.filename: packed.read(member) for member in members}
    except Exception as error:  # of any kind, as above
        raise ValueError(f"no archive of arrays ({_line(error)})") from error
    return {name.removesuffix(".npy"): array_in(inner) for name, inner in raw.items()}


def _line(error: Exception) -> str:
    """What went wrong, in some words of one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
