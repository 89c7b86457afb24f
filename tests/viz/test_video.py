import numpy as np
import pytest
from PIL import Image
from viz_walking import walking

from easytune_lib.viz import video
from easytune_lib.viz.video import find_ffmpeg, frames, save_video


def test_an_mp4_plays_and_repeats_exactly(tmp_path):
    if find_ffmpeg() is None:
        pytest.skip("no ffmpeg: neither the system's nor imageio-ffmpeg")
    path = save_video(walking(24), tmp_path / "walk.mp4")
    content = path.read_bytes()
    assert content[4:8] == b"ftyp" and content.index(b"moov") < content.index(b"mdat")
    assert len(content) < 100_000
    assert save_video(walking(24), tmp_path / "again.mp4").read_bytes() == content
    reader = pytest.importorskip("imageio_ffmpeg", reason="reads the video back")
    count, seconds = reader.count_frames_and_secs(str(path))
    assert count == 24 and seconds == pytest.approx(1.2, abs=0.06)


def test_a_gif_plays_as_long_as_the_motion(tmp_path):
    path = save_video([walking(20), walking(10)], tmp_path / "two.gif", names=["base", "EasyTune"])
    with Image.open(path) as gif:
        assert gif.n_frames * gif.info["duration"] == pytest.approx(1000, abs=100)


def test_without_ffmpeg_the_path_returned_says_gif(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "find_ffmpeg", lambda: None)
    path = save_video(walking(4), tmp_path / "walk.mp4")
    assert path == tmp_path / "walk.gif" and path.read_bytes().startswith(b"GIF89a")
    assert not (tmp_path / "walk.mp4").exists()


def test_ffmpegs_complaint_is_passed_on(tmp_path, monkeypatch):
    fake = tmp_path / "ffmpeg"
    fake.write_text("#!/bin/sh\necho no such codec >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setattr(video, "find_ffmpeg", lambda: str(fake))
    with pytest.raises(RuntimeError, match="no such codec"):
        save_video(walking(4), tmp_path / "walk.mp4")
    assert not (tmp_path / "walk.mp4").exists()


def test_the_body_is_large_inside_the_frame_and_moves():
    pictures = list(frames([walking(12)], [""], ["#0072b2"], "$a caption"))
    drawn = [np.argwhere(p[..., :3].max(-1) - p[..., :3].min(-1).astype(int) > 60)
             for p in pictures]  # coloured pixels  # fmt: skip
    for place in drawn:
        assert place.min() > 2 and place.max() < 478
        assert np.ptp(place[:, 0]) > 240  # over half of the height
    assert (pictures[0] != pictures[5]).any()


def test_mistakes_are_named(tmp_path):
    with pytest.raises(ValueError, match="ends in"):
        save_video(walking(4), tmp_path / "walk.avi")
    with pytest.raises(ValueError, match="2 names"):
        save_video(walking(4), tmp_path / "walk.mp4", names=["a", "b"])
    assert not list(tmp_path.iterdir())
