"""Text models in folders and on the hub, which is a server on this machine."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from file_server import FileServer, serving
from huggingface_hub import constants

from easytune_lib.text.hub import digest_of, fetch_text_model, find_text_model, name_text_model

OLD, NEW = "a" * 40, "b" * 40
REPO = "someone/model"


def publish(server: FileServer, commit: str, files: dict[str, bytes], branch: str) -> None:
    """Put files on the hub, as ``commit``, to which ``branch`` then points."""
    tree = [
        {"type": "file", "path": name, "size": len(content), "oid": f"{commit[:8]}{number}"}
        for number, (name, content) in enumerate(files.items())
    ]
    about = {"id": REPO, "sha": commit, "siblings": [{"rfilename": name} for name in files]}
    for revision in (branch, commit):
        server.files[f"/api/models/{REPO}/revision/{revision}"] = json.dumps(about).encode()
        server.files[f"/api/models/{REPO}/tree/{revision}"] = json.dumps(tree).encode()
    for name, content in files.items():
        server.files[f"/{REPO}/resolve/{commit}/{name}"] = content
    server.headers = {"X-Repo-Commit": commit}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    with serving({}) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        url = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield server


FILES = {"config.json": b"{}", "model.safetensors": b"weights", "tokenizer.json": b"{}"}
MUCH = {"flax_model.msgpack": b"no", "onnx/model.onnx": b"no", "openvino/openvino_model.bin": b"no"}


def names(folder: Path) -> set[str]:
    found = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    return {name for name in found if not name.startswith(".")}


def test_only_what_is_read_is_fetched_and_only_once(hub: FileServer):
    publish(hub, OLD, {**FILES, **MUCH, "pytorch_model.bin": b"twice"}, "main")
    folder = find_text_model(REPO)
    assert names(folder) == set(FILES) and (folder / "model.safetensors").read_bytes() == b"weights"
    asked = len(hub.asked)
    assert find_text_model(REPO) == folder and name_text_model(REPO) == f"{REPO}@{OLD[:12]}"
    assert len(hub.asked) == asked


def test_pickled_weights_are_taken_where_there_are_no_others(hub: FileServer):
    files = {"config.json": b"{}", "pytorch_model.bin": b"weights", "vocab.txt": b""}
    publish(hub, OLD, {**files, **MUCH}, "main")
    assert names(find_text_model(REPO)) == set(files) == names(find_text_model(REPO))


def test_a_dense_layer_comes_along(hub: FileServer):
    files = {**FILES, "2_Dense/model.safetensors": b"layer"}
    publish(hub, OLD, {**files, "1_Pooling/config.json": b"{}"}, "main")
    assert names(find_text_model(REPO, dense="2_Dense")) == set(files)


def test_revisions_are_told_apart_and_a_branch_is_named_by_its_commit(hub: FileServer):
    publish(hub, OLD, FILES, "v1")
    old = find_text_model(REPO, "v1")
    publish(hub, NEW, {**FILES, "model.safetensors": b"others"}, "v2")
    new = find_text_model(REPO, "v2")
    assert (old / "model.safetensors").read_bytes() == b"weights"
    assert (new / "model.safetensors").read_bytes() == b"others"
    assert name_text_model(REPO, "v1") == f"{REPO}@{OLD[:12]}"
    assert name_text_model(REPO, "v2") == name_text_model(REPO, NEW) == f"{REPO}@{NEW[:12]}"


def test_a_copy_in_a_folder_of_ones_own(hub: FileServer, tmp_path: Path):
    publish(hub, OLD, {**FILES, **MUCH}, "main")
    folder = fetch_text_model(REPO, to=tmp_path / "copy")
    assert folder == (tmp_path / "copy").resolve()
    assert {name for name in names(folder) if not name.startswith(".cache")} == set(FILES)
    assert find_text_model(str(folder)) == folder


@pytest.mark.parametrize("source", [REPO, "no such folder/at/all"])
def test_without_network_one_line_names_the_way_out(
    source: str, hub: FileServer, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    with pytest.raises(ValueError, match="could not be fetched.*give a folder") as caught:
        find_text_model(source)
    assert "\n" not in str(caught.value) and source in str(caught.value)


def test_offline_one_line_names_the_way_out(hub: FileServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="give a folder") as caught:
        find_text_model(REPO)
    assert "\n" not in str(caught.value)


def test_what_the_hub_does_not_have_is_said(hub: FileServer):
    with pytest.raises(ValueError, match=r"someone/model' \(main\)"):
        find_text_model(REPO)


def test_a_digest_is_of_what_is_read(tmp_path: Path):
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    first = digest_of(tmp_path)
    (tmp_path / "README.md").touch()
    (tmp_path / "pytorch_model.bin").touch()  # not read beside safetensors
    assert digest_of(tmp_path) == first
    assert name_text_model(str(tmp_path)) == f"{tmp_path.name}@sha256:{first[:16]}"
    (tmp_path / "tokenizer.json").write_bytes(b"{ }")
    second = digest_of(tmp_path)
    (tmp_path / "2_Dense").mkdir()
    (tmp_path / "2_Dense" / "model.safetensors").touch()
    assert digest_of(tmp_path) == second
    assert len({first, second, digest_of(tmp_path, "2_Dense")}) == 3
