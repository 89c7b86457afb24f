"""Arrays of strangers: as NumPy reads them, and nothing that would run, lie or not fit."""

import io
import zipfile

import numpy as np
import pytest

from easytune_lib.motion.arrays import array_in, arrays_in


def packed(save, *values, **named):
    file = io.BytesIO()
    save(file, *values, **named)
    return file.getvalue()


@pytest.mark.parametrize(
    "value",
    [
        np.arange(6, dtype=np.int16).reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.float64(0.5),
        np.zeros((0, 4)),
        np.array(["a", "bcd"]),
        np.arange(3, dtype=">f4"),
    ],
    ids=lambda value: f"{value.dtype}{value.shape}",
)
def test_arrays_are_those_of_numpy_and_may_be_written_to(value):
    found = array_in(packed(np.save, value))
    assert found.dtype == np.asarray(value).dtype and found.flags.writeable
    np.testing.assert_array_equal(found, value)


def test_an_archive_gives_its_arrays_by_name():
    for save in (np.savez, np.savez_compressed):
        found = arrays_in(packed(save, a=np.arange(3), b=1.5))
        assert found.keys() == {"a", "b"} and found["b"] == 1.5


@pytest.mark.parametrize(
    "content",
    [b"", b"\x93NUMPY", packed(np.save, np.arange(9))[:-1], packed(np.save, np.arange(9)) + b"x",
     packed(np.save, np.array([print, 1], object), allow_pickle=True)],
    ids=["empty", "begun", "cut", "more", "objects"],
)  # fmt: skip
def test_what_is_no_array_is_refused(content):
    with pytest.raises(ValueError, match=r"^no array of numbers \(.+\)$"):
        array_in(content)


def test_a_shape_that_the_file_has_no_bytes_for_takes_no_memory():
    content = packed(np.save, np.zeros(7)).replace(b"(7,)", b"(7" + b"0" * 11 + b",)")
    with pytest.raises(ValueError, match="no array of numbers"):
        array_in(content)


def test_an_archive_that_would_grow_is_refused_unread():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("a.npy", b"\0" * 10_000_000)
    assert len(file.getvalue()) < 20_000
    with pytest.raises(ValueError, match=r"no archive of arrays \(unpacks to more than 1 MiB\)"):
        arrays_in(file.getvalue(), largest=2**20)
