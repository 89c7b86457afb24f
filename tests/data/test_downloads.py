"""Downloads from a server on this machine, which cuts them, changes files, and sends rubbish."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from file_server import FileServer, serving

from easytune_lib.data import downloads
from easytune_lib.data.downloads import Received, download, verify

CONTENT = bytes(range(256)) * 400
SHA = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
MD5 = f"md5:{hashlib.md5(CONTENT).hexdigest()}"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setattr(downloads, "BLOCK", 10_000)
    with serving({"/model.ckpt": CONTENT}) as running:
        yield running


def fetch(server: FileServer, file: Path, checksum: str = "") -> list[Received]:
    return list(download(f"{server.url}/model.ckpt", file, checksum))


def cut(server: FileServer, file: Path, after: int) -> None:
    """A download that ends too early."""
    server.cut = after
    with pytest.raises(ValueError, match=f"after {after} of {len(CONTENT)} bytes: the same"):
        fetch(server, file)
    server.cut = None
    assert not file.exists()


def left(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


@pytest.mark.parametrize("checksum", ["", SHA, MD5])
def test_a_whole_download(server: FileServer, tmp_path: Path, checksum: str):
    steps = fetch(server, tmp_path / "new" / "model.ckpt", checksum)
    assert (tmp_path / "new" / "model.ckpt").read_bytes() == CONTENT
    assert left(tmp_path / "new") == ["model.ckpt"]
    done = [step.done for step in steps]
    assert done == sorted(done) and done[-1] == steps[-1].total == len(CONTENT)
    assert steps[-1].eta == 0 and steps[0].eta is not None and steps[0].eta > 0


def test_one_that_was_cut_goes_on_where_it_stopped(server: FileServer, tmp_path: Path):
    file = tmp_path / "model.ckpt"
    cut(server, file, 30_000)
    steps = fetch(server, file, SHA)
    assert file.read_bytes() == CONTENT and left(tmp_path) == ["model.ckpt"]
    assert server.asked[-1][2] == "bytes=30000-" and steps[0].done > 30_000
    assert steps[-1].total == len(CONTENT)


def test_it_may_be_cut_more_than_once(server: FileServer, tmp_path: Path):
    file = tmp_path / "model.ckpt"
    cut(server, file, 30_000)
    server.cut = 20_000
    with pytest.raises(ValueError, match="cut off after 50000 of 102400"):
        fetch(server, file)
    server.cut = None
    fetch(server, file, SHA)
    assert server.asked[-1][2] == "bytes=50000-"


def test_a_server_that_sends_no_parts_sends_all_again(server: FileServer, tmp_path: Path):
    file = tmp_path / "model.ckpt"
    cut(server, file, 30_000)
    server.ranges = False
    fetch(server, file, SHA)
    assert file.read_bytes() == CONTENT and left(tmp_path) == ["model.ckpt"]


def test_a_file_that_changed_is_fetched_anew(server: FileServer, tmp_path: Path):
    file = tmp_path / "model.ckpt"
    cut(server, file, 30_000)
    server.files["/model.ckpt"] = CONTENT[::-1]
    fetch(server, file)
    assert file.read_bytes() == CONTENT[::-1]


def test_where_no_version_is_told_nothing_is_stitched(server: FileServer, tmp_path: Path):
    file, server.tells = tmp_path / "model.ckpt", False
    cut(server, file, 30_000)
    fetch(server, file)
    assert server.asked[-1][2] == "" and file.read_bytes() == CONTENT


def test_one_that_was_killed_before_its_last_step(server: FileServer, tmp_path: Path):
    file = tmp_path / "model.ckpt"
    cut(server, file, 30_000)
    (tmp_path / ".model.ckpt.part").write_bytes(CONTENT)
    fetch(server, file, SHA)
    assert [asked[2] for asked in server.asked[1:]] == [f"bytes={len(CONTENT)}-", ""]
    assert file.read_bytes() == CONTENT and left(tmp_path) == ["model.ckpt"]


def test_one_that_is_left_alone_keeps_what_came(server: FileServer, tmp_path: Path):
    steps = download(f"{server.url}/model.ckpt", tmp_path / "model.ckpt")
    assert next(steps).done == 10_000
    del steps
    assert left(tmp_path) == [".model.ckpt.part", ".model.ckpt.version"]


@pytest.mark.parametrize("checksum", [f"sha256:{'0' * 64}", f"md5:{'0' * 32}"])
def test_wrong_bytes_leave_nothing_behind(server: FileServer, tmp_path: Path, checksum: str):
    with pytest.raises(ValueError, match=r"expected 0{32,}: nothing was kept"):
        fetch(server, tmp_path / "model.ckpt", checksum)
    assert left(tmp_path) == []


def test_what_is_not_there_is_said_in_one_line(server: FileServer, tmp_path: Path):
    with pytest.raises(ValueError, match="the server says 404") as caught:
        list(download(f"{server.url}/other.ckpt", tmp_path / "other.ckpt"))
    assert "\n" not in str(caught.value) and left(tmp_path) == []
    with pytest.raises(ValueError, match="cannot be reached.*is there a network"):
        list(download("http://127.0.0.1:1/model.ckpt", tmp_path / "model.ckpt"))


def test_a_page_is_no_file(server: FileServer, tmp_path: Path):
    server.headers = {"Content-Type": "text/html; charset=utf-8"}
    with pytest.raises(ValueError, match="is a page, not a file"):
        fetch(server, tmp_path / "model.ckpt")
    assert left(tmp_path) == []


def test_the_server_does_not_choose_where_a_file_goes(server: FileServer, tmp_path: Path):
    server.headers = {"Content-Disposition": 'attachment; filename="../../escaped"'}
    fetch(server, tmp_path / "in" / "model.ckpt")
    assert left(tmp_path) == ["in"] and left(tmp_path / "in") == ["model.ckpt"]


def test_an_old_file_stays_until_the_new_one_is_whole(server: FileServer, tmp_path: Path):
    (tmp_path / "model.ckpt").write_bytes(b"old")
    server.cut = 10
    with pytest.raises(ValueError, match="cut off"):
        fetch(server, tmp_path / "model.ckpt")
    assert (tmp_path / "model.ckpt").read_bytes() == b"old"


def test_a_checksum_says_both(tmp_path: Path):
    (tmp_path / "x").write_bytes(CONTENT)
    verify(tmp_path / "x", SHA), verify(tmp_path / "x", MD5), verify(tmp_path / "x", "")
    with pytest.raises(ValueError, match=f"its sha256 is {SHA[7:]}, expected abc"):
        verify(tmp_path / "x", "sha256:abc")
