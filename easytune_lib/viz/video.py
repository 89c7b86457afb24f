"""Motions as video files."""

import io
import shutil
import subprocess
import tempfile
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from PIL import Image

from easytune_lib.motion.motion import Motion
from easytune_lib.storage import write_atomic
from easytune_lib.viz.body import View, body_of, facing, focus, frame_at, shadow, shapes
from easytune_lib.viz.style import GREY, body_colors, styled

_HEADING = 46  # pixels above the pictures, for the caption
_GRID = 0.5  # metres


def save_video(
    motion: Motion | Sequence[Motion],
    path: Path,
    names: Sequence[str] | None = None,
    colors: Sequence[str] | None = None,
    caption: str | None = None,
) -> Path:
    """Write one motion, or several side by side and in step, as MP4 or GIF.

    >>> et.save_video(bench.sample(["a person waves."], seconds=1.0), tmp / "wave.gif").name
    'wave.gif'

    An MP4 is made by the system's ffmpeg, or else by that of ``imageio-ffmpeg``. Where
    neither is there, a GIF is written instead, and the path returned ends in ``.gif``.
    The same motions give the same bytes with the same encoder.

    Args:
        motion: One or several; shorter ones hold their last frame. The first one's rate is
            the video's.
        path: Ends in ``.mp4`` or ``.gif``.
        names: Above each picture; names of methods choose their colours.
        colors: One a motion.
        caption: On top; the first motion's text where ``None``.

    Returns:
        The file that was written.

    Raises:
        ValueError: No motion, lists of different lengths, or another suffix.
        RuntimeError: ffmpeg failed; says what it said.
    """
    motions = [motion] if isinstance(motion, Motion) else list(motion)
    names = [""] * len(motions) if names is None else list(names)
    colors = body_colors(names) if colors is None else list(colors)
    if not motions or not len(motions) == len(names) == len(colors):
        raise ValueError(
            f"give at least one motion, and as many names and colours: got {len(motions)} "
            f"motions, {len(names)} names, {len(colors)} colours"
        )
    path = Path(path)
    if path.suffix not in (".mp4", ".gif"):
        raise ValueError(f"a video's path ends in .mp4 or .gif, not {path.name!r}")
    caption = motions[0].text if caption is None else caption
    ffmpeg = find_ffmpeg() if path.suffix == ".mp4" else None
    if ffmpeg is None:
        film = frames(motions, names, colors, caption, dpi=58)
        return write_atomic(path.with_suffix(".gif"), _gif(film, motions[0].fps))
    film = frames(motions, names, colors, caption)
    return write_atomic(path, _mp4(film, motions[0].fps, ffmpeg))


def find_ffmpeg() -> str | None:
    """The system's ffmpeg, or that of ``imageio-ffmpeg``, if there is one."""
    if found := shutil.which("ffmpeg"):
        return found
    try:
        import imageio_ffmpeg

        return imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError):
        return None


def frames(
    motions: Sequence[Motion],
    names: Sequence[str],
    colors: Sequence[str],
    caption: str,
    dpi: int = 100,
) -> Iterator[UInt8[np.ndarray, "height width 4"]]:
    """The pictures of a video as RGBA, all at one scale; 480 pixels square for one motion."""
    columns = min(len(motions), 2 if len(motions) in (2, 4) else 3)
    rows = -(-len(motions) // columns)
    wide, high = {1: (480, 434), 2: (360, 414), 3: (300, 354)}[columns]
    width, height = columns * wide, rows * high + _HEADING
    view, fps = View(facing(motions[0]) - 0.6), motions[0].fps
    times = np.arange(max(round(m.seconds * fps) for m in motions)) / fps
    paths = [focus([m])[frame_at(m, times)] for m in motions]
    box = _box(motions, paths, times, view, wide / high)
    with styled(), matplotlib.rc_context({"font.family": "DejaVu Sans"}):
        fig = Figure(figsize=(width / 100, height / 100), dpi=dpi)
        fig.set_layout_engine("none")
        canvas = FigureCanvasAgg(fig)
        lines = textwrap.wrap(caption, int(width / 7.2), max_lines=2, placeholder=" …")
        fig.text(0.5, 1 - 8 / height, "\n".join(lines), ha="center", va="top", fontsize=9,
                 parse_math=False)  # fmt: skip
        clock = fig.text(8 / width, 6 / height, "", fontsize=8, color=GREY)
        panels = []
        for i, (motion, name, color) in enumerate(zip(motions, names, colors, strict=True)):
            place = (i % columns / columns, (rows - 1 - i // columns) * high / height)
            ax = fig.add_axes((*place, 1 / columns, high / height), xlim=box[:2], ylim=box[2:])
            ax.axis("off")
            ax.text(0.5, 0.99, name, transform=ax.transAxes, ha="center", va="top", fontsize=9,
                    weight="bold", color=color, parse_math=False)  # fmt: skip
            panels.append(_Panel(ax, motion, color, view))
        canvas.draw()
    paper = canvas.copy_from_bbox(fig.bbox)
    for i, time in enumerate(times.tolist()):
        canvas.restore_region(paper)
        for panel, path in zip(panels, paths, strict=True):
            panel.draw(time, path[i])
        clock.set_text(f"{time:.2f} s")
        fig.draw_artist(clock)
        yield np.array(canvas.buffer_rgba())


class _Panel:
    """One motion's picture: floor, shadow and body are redrawn, the rest stays."""

    def __init__(self, ax: Axes, motion: Motion, color: str, view: View) -> None:
        self.ax, self.motion, self.color, self.view = ax, motion, color, view
        self.body = body_of(motion.skeleton)
        self.points = self.body.points(motion)
        self.floor = LineCollection([], colors="#DFE3EA", linewidths=0.8)
        self.shade = PolyCollection([], edgecolors="none")
        self.limbs = PolyCollection([], linewidths=0.6)
        for artist in (self.floor, self.shade, self.limbs):
            artist.set_animated(True)
            ax.add_collection(artist)

    def draw(self, time: float, centre: Float[np.ndarray, "2"]) -> None:
        points = self.points[frame_at(self.motion, np.array([time]))[0]]
        points = points - [centre[0], 0.0, centre[1]]
        self.floor.set_segments(list(_floor(centre, self.view)))
        outlines, faces = shadow(self.body, points, self.view)
        self.shade.set(verts=list(outlines), facecolor=faces)
        far_to_near = shapes(self.body, self.view(points), self.color)
        limbs = [shape for _, shape in sorted(far_to_near, key=lambda item: item[0])]
        self.limbs.set(
            verts=list(np.concatenate([s.outlines for s in limbs])),
            facecolor=np.concatenate([s.faces for s in limbs]),
            edgecolor=np.concatenate([s.edges for s in limbs]),
        )
        for artist in (self.floor, self.shade, self.limbs):
            self.ax.draw_artist(artist)


def _floor(centre: Float[np.ndarray, "2"], view: View) -> Float[np.ndarray, "lines 2 2"]:
    """Grid lines fixed in the world, cut to a square that goes with the camera."""
    reach = 2.4
    at = [np.arange(np.ceil((c - reach) / _GRID), (c + reach) / _GRID) * _GRID - c for c in centre]
    ends = np.array([-reach, reach])
    along_z = [[[x, 0, end] for end in ends] for x in at[0]]
    along_x = [[[end, 0, z] for end in ends] for z in at[1]]
    return view(np.array(along_z + along_x))[..., :2]


def _box(
    motions: Sequence[Motion],
    paths: Sequence[Float[np.ndarray, "frames 2"]],
    times: Float[np.ndarray, " frames"],
    view: View,
    aspect: float,
) -> tuple[float, float, float, float]:
    """Left, right, low and high that hold every frame, at the pictures' width over height."""
    seen = []
    for motion, path in zip(motions, paths, strict=True):
        points = body_of(motion.skeleton).points(motion)[frame_at(motion, times)]
        centre = np.stack([path[:, 0], np.zeros(len(path)), path[:, 1]], axis=1)
        seen.append(view(points - centre[:, None]).reshape(-1, 3))
    low, high = np.concatenate(seen).min(0)[:2] - 0.15, np.concatenate(seen).max(0)[:2] + 0.15
    high[1] += 0.12 * (high[1] - low[1])  # the name
    middle, half = (low + high) / 2, (high - low) / 2
    half = np.maximum(half, half[::-1] * [aspect, 1 / aspect])
    (left, bottom), (right, top) = (middle - half).tolist(), (middle + half).tolist()
    return left, right, bottom, top


def _mp4(film: Iterator[np.ndarray], fps: float, ffmpeg: str) -> bytes:
    known = subprocess.run([ffmpeg, "-hide_banner", "-encoders"], capture_output=True, check=False)
    x264 = ["libx264", "-preset", "fast", "-crf", "26"]
    codec = x264 if b"libx264" in known.stdout else ["mpeg4", "-q:v", "5"]
    first = next(film)
    height, width, _ = first.shape
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as said:
        out = Path(folder) / "video.mp4"
        command = [
            *(ffmpeg, "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgba"),
            *("-s", f"{width}x{height}", "-r", f"{fps:g}", "-i", "-", "-an", "-c:v", *codec),
            *("-pix_fmt", "yuv420p", "-threads", "1", "-map_metadata", "-1"),
            *("-fflags", "+bitexact", "-flags:v", "+bitexact", "-movflags", "+faststart"),
            str(out),
        ]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=said)
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # it ended early: its message says why
            for picture in chain([first], film):
                process.stdin.write(picture.tobytes())
        with suppress(BrokenPipeError):
            process.stdin.close()
        if process.wait() or not out.exists():
            said.seek(0)
            raise RuntimeError(f"{ffmpeg} failed: {said.read().decode(errors='replace').strip()}")
        return out.read_bytes()


def _gif(film: Iterator[np.ndarray], fps: float) -> bytes:
    """About 10 pictures a second in 32 colours, or the file would be large."""
    every = max(1, round(fps / 10))
    pictures = [Image.fromarray(p).convert("RGB") for p in islice(film, 0, None, every)]
    palette = pictures[len(pictures) // 2].quantize(32, Image.Quantize.FASTOCTREE)
    first, *rest = [p.quantize(palette=palette, dither=Image.Dither.NONE) for p in pictures]
    file = io.BytesIO()
    first.save(file, format="GIF", save_all=True, append_images=rest, loop=0, optimize=False,
               duration=round(1000 * every / fps))  # fmt: skip
    return file.getvalue()
