"""The table of official files, and `easytune weights`; nothing here reaches the internet."""

import hashlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest
from file_server import FileServer, serving

from easytune_lib.app import doctor
from easytune_lib.app.cli import main
from easytune_lib.extras import weights
from easytune_lib.extras.weights import ITEMS, Item, find
from easytune_lib.storage import alone
from easytune_lib.text.encoders import PUBLISHED

CONTENT = b"weights" * 1000


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """Three items: without and with a checksum, and one whose checksum is another's."""
    with serving({"/a.ckpt": CONTENT}) as running:
        urls = {"a.ckpt": f"{running.url}/a.ckpt"}
        sums = {"plain": "", "right": hashlib.sha256(CONTENT).hexdigest(), "wrong": "0" * 64}
        for name, digest in sums.items():
            checksum = f"sha256:{digest}" if digest else ""
            item = Item("a model", "MIT", "7 kB", urls=urls, file="a.ckpt", checksum=checksum)
            monkeypatch.setitem(weights.ITEMS, name, item)
        yield running


@pytest.mark.parametrize("name", ITEMS)
def test_every_item_says_what_it_is_and_how_it_is_got(name: str):
    item = ITEMS[name]
    assert item.what and item.licence and item.size and item.next_step(Path("f"))
    assert item.page.startswith("https://") or item.urls
    assert bool(item.urls) + bool(item.encoder) + (item.how == "by hand") == 1
    for file, url in item.urls.items():
        assert PurePosixPath(file).name == file and url.startswith("https://")
    assert not item.file.startswith("/") and ".." not in item.file
    assert PurePosixPath(name).name == name
    assert item.encoder in {"", *PUBLISHED}


def test_every_published_encoder_can_be_got():
    hubs = {PUBLISHED[item.encoder].hub for item in ITEMS.values() if item.encoder}
    assert hubs == {each.hub for each in PUBLISHED.values()}


def test_list_is_a_table(capsys: pytest.CaptureFixture[str]):
    assert main(["weights", "list"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["name", "got", "by", "size", "licence", "what"]
    assert [row.split()[0] for row in rows[:-1]] == list(ITEMS)


@pytest.mark.parametrize("name", ["plain", "right"])
def test_get_says_licence_progress_and_the_next_command(
    name: str, server: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["weights", "get", name, "--to", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert (tmp_path / "a.ckpt").read_bytes() == CONTENT
    assert lines[1] == "licence: MIT"
    assert "0.0 of 0.0 MB" in lines[3] and "left" in lines[3]
    assert ("checksum is right" in lines[4]) == (name == "right")
    assert lines[-1] == f"next: easytune checkpoint inspect {tmp_path}/a.ckpt"
    asked = len(server.asked)
    assert main(["weights", "get", name, "--to", str(tmp_path)]) == 0
    assert "is there already" in capsys.readouterr().out and len(server.asked) == asked


def test_get_goes_on_where_it_was_cut(server: FileServer, tmp_path: Path, capsys):
    server.cut = 3000
    assert main(["weights", "get", "right", "--to", str(tmp_path)]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert "cut off after 3000 of 7000 bytes" in error
    server.cut = None
    assert main(["weights", "get", "right", "--to", str(tmp_path)]) == 0
    assert server.asked[-1][2] == "bytes=3000-" and (tmp_path / "a.ckpt").read_bytes() == CONTENT


def test_wrong_bytes_are_one_line_and_leave_nothing(server: FileServer, tmp_path: Path, capsys):
    assert main(["weights", "get", "wrong", "--to", str(tmp_path)]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert "nothing was kept" in error
    assert [file.name for file in tmp_path.iterdir()] == [".lock"]


def test_by_hand_says_how_and_what_then(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["weights", "get", "mdm", "--to", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    file = tmp_path / "humanml_trans_enc_512" / "model000475000.pt"
    assert "licence: MIT" in said and ITEMS["mdm"].page in said and "browser" in said
    assert said.splitlines()[-1] == f"then: easytune checkpoint inspect {file}"
    file.parent.mkdir()
    file.touch()
    assert main(["weights", "get", "mdm", "--to", str(tmp_path)]) == 0
    assert f"next: easytune checkpoint inspect {file}" in capsys.readouterr().out


def test_what_was_got_by_hand_is_compared_with_its_checksum(tmp_path: Path, capsys):
    (tmp_path / "tmr_models.tgz").write_bytes(b"a page of errors")
    assert main(["weights", "get", "tmr", "--to", str(tmp_path)]) == 2
    assert "expected 7b6d8814f9c1ca972f62852ebb6c7a6f" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["motionlcm", "mdm_50", "MLD", "clip", "../mdm", "/etc/passwd", ""]
)
def test_unknown_names_are_one_line_with_near_ones(name: str, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["weights", "get", name]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert repr(name) in error and "easytune weights list" in error
    near = {"motionlcm": "motionlcm-v", "mdm_50": "mdm-50", "MLD": "mld", "clip": "clip-vit-"}
    assert near.get(name, "") in error
    assert not list(tmp_path.iterdir())


def test_encoders_come_from_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys):
    calls = []
    monkeypatch.setattr(weights, "fetch_text_model", lambda *a, **k: calls.append((a, k)))
    assert main(["weights", "get", "sentence-t5-large", "--to", str(tmp_path)]) == 0
    hub = "sentence-transformers/sentence-t5-large"
    assert calls == [((hub,), {"dense": "2_Dense", "to": tmp_path})]
    said = capsys.readouterr().out
    assert f'published_encoder("sentence-t5-large", "{tmp_path}")' in said
    assert find("sentence-t5-large").licence in said


def test_the_doctor_names_encoders_that_are_missing(monkeypatch: pytest.MonkeyPatch):
    found = "easytune_lib.text.hub.cached_text_model"
    monkeypatch.setattr(found, lambda hub, dense="": None if "t5" in hub else Path())
    finding = doctor._published()
    assert not finding.good and not finding.needed and "sentence-t5-large;" in finding.cost
    assert "weights get" in finding.cost and "clip" not in finding.cost
    monkeypatch.setattr(found, lambda hub, dense="": Path())
    assert doctor._published().good


@pytest.mark.parametrize("name", ["plain", "clip-vit-base-patch32"])
def test_two_at_once_are_told_of_each_other(
    name: str, server: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with alone(tmp_path):
        assert main(["weights", "get", name, "--to", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"another download is at work in {tmp_path}: wait for it, or end it" in error
    assert server.asked == [] and not (tmp_path / "a.ckpt").exists()


def test_one_after_the_other_is_not_refused(server: FileServer, tmp_path: Path):
    for _ in range(2):
        assert main(["weights", "get", "plain", "--to", str(tmp_path)]) == 0
    assert (tmp_path / "a.ckpt").read_bytes() == CONTENT
