"""The fine-tuning cockpit: tune a model by hand, and watch it learn."""

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from easytune_lib.extras.widgets.kept import keep_motions
from easytune_lib.extras.widgets.panel import Panel, View, button, chart, choice, line, slider
from easytune_lib.extras.widgets.run import METHODS, Settings, TuningRun, numbers
from easytune_lib.motion.motion import Motion
from easytune_lib.storage import save_tensors
from easytune_lib.types import Prompts
from easytune_lib.viz.player import MotionPlayer
from easytune_lib.viz.style import GREY, run_colors
from easytune_lib.viz.video import save_video
from easytune_lib.workbench import Workbench, make_prompts

RATES = ("5e-05", "0.0001", "0.0002", "0.0005")
_PACE = 0.4  # seconds between two pictures of a run
_MEAN = 8
_BESIDE = 3  # runs whose motions are shown beside the base model's


class Cockpit(Panel):
    """Start, pause, resume and stop runs; each new one is drawn beside those before.

    A run works in a thread of its own, so that the kernel stays free. Caption, method and sizes
    are read when Start is pressed. `Save` writes the last run to ``folder``: record, weights,
    motions, a page and a video of before and after.

    Args:
        bench: Whose model, reward, judge and prompts.
        caption: Of the motion to be watched; any other can be typed in.
        seconds: Its length, 1 to 6.4.
        updates: Optimizer steps, at first.
        every: Updates between two samples, at first.
        folder: Where Save writes.
        settings: What no control decides: batch size, held-out prompts, seed.
    """

    def __init__(
        self,
        bench: Workbench,
        caption: str,
        seconds: float = 4.0,
        updates: int = 60,
        every: int = 20,
        folder: Path = Path("../outputs/cockpit"),
        settings: Settings | None = None,
    ) -> None:
        self.bench, self.seconds, self.folder = bench, seconds, Path(folder)
        self.runs: list[TuningRun] = []
        self._settings = settings or Settings()
        self._asked: dict[str, Prompts] = {}
        self._said, self._last = "", 0.0
        self._lock = threading.RLock()
        self._counts = sorted({5, 10, 20, 40, 60, 100, 200, 400, updates})
        self._pauses = sorted({2, 5, 10, 20, 50, 100, every})
        values = {
            "caption": caption, "method": self._settings.method, "lr": f"{self._settings.lr:g}",
            "updates": str(updates), "every": str(every), "shown": "0",
        }  # fmt: skip
        super().__init__(
            f"Fine-tune {bench.base} by hand", self._controls(), values, height=900
        )  # fmt: skip

    @property
    def run(self) -> TuningRun | None:
        """The last one."""
        return self.runs[-1] if self.runs else None

    def press(self, name: str) -> None:
        """What the buttons do."""
        self._said = ""
        try:
            {"start": self.start, "pause": self.pause, "resume": self.resume, "stop": self.stop,
             "save": self.save}[name]()  # fmt: skip
        except (ValueError, RuntimeError, OSError) as error:
            self._said = str(error)
        self._draw(True)

    def start(self) -> TuningRun:
        """A new run, with what the controls say.

        Raises:
            ValueError: One is going on; the caption is empty.
        """
        if self.run and self.run.active:
            raise ValueError(f"a run is {self.run.state}: stop it before you start another")
        caption = self.values["caption"].strip()
        if not caption:
            raise ValueError("write a caption first: what shall the motion show?")
        if caption not in self._asked:
            self._asked[caption] = make_prompts([caption], self.seconds)
        v = self.values
        settings = replace(
            self._settings, method=v["method"], lr=float(v["lr"]), updates=int(v["updates"]),
            every=int(v["every"]),
        )  # fmt: skip
        run = TuningRun(self.bench, self._asked[caption], settings, lambda _: self._draw())
        self.runs.append(run)
        run.start()
        self._draw(True)
        return run

    def pause(self) -> None:
        """Let the run wait."""
        if self.run:
            self.run.pause()

    def resume(self) -> None:
        """Let the run go on."""
        if self.run:
            self.run.resume()

    def stop(self) -> None:
        """End the run; it keeps what it learned."""
        if self.run:
            self.run.stop()

    def wait(self, seconds: float | None = None) -> "Cockpit":
        """Until the last run has ended, for notebooks that run without a hand."""
        if self.run:
            self.run.wait(seconds)
        return self

    def save(self) -> Path:
        """Write the last run; returns its folder.

        Raises:
            ValueError: There is none, it goes on, or it failed.
        """
        run = self.run
        if run is None or run.state not in ("done", "stopped"):
            state = run.state if run else "not there"
            raise ValueError(f"the run is {state}: one that is done or stopped can be saved")
        record = run.record()
        record.save(self.folder)
        place = self.folder / record.run_id
        pair = {"base": run.samples[0].motion, "tuned": run.samples[-1].motion}
        keep_motions(place, pair)
        save_tensors(place / "tuned.safetensors", dict(run.model.denoiser.state_dict()), {})
        names, caption = list(pair), run.prompts.texts[0]
        MotionPlayer(list(pair.values()), names=names, title=caption).save(
            place / "before_after.html"
        )
        video = save_video(list(pair.values()), place / "before_after.mp4", names, None, caption)
        self._said = f"Saved in {place}: record, weights, motions, page and {video.name}"
        return place

    def compute(self, values: Mapping[str, str]) -> View | None:
        """Curves of all runs; the motions are in ``base``, which changes less often."""
        self._last = time.monotonic()
        return {
            "note": self._note(), "failed": bool(self._failure()), "mark": None,
            "progress": self._progress(), "charts": self._charts(),
        }  # fmt: skip

    def page(self) -> str:
        """As it is now; the slider of samples works without a kernel."""
        with self._lock:
            keep, view = dict(self._known), self.shown
            self._known = {
                self.key(self.values | {"shown": shown}): view
                | {"player": self._player(shown)}
                for shown in self._looks()
            }  # fmt: skip
            try:
                return super().page()
            finally:
                self._known = keep

    def _answer(self) -> None:
        """Nothing is kept: the same controls show another state a moment later."""
        self._draw(True)

    def _draw(self, now: bool = False) -> None:
        """Called by hand and by the run: at most a few times a second, but for what matters."""
        with self._lock:
            controls = self._controls()
            changed = controls != self.controls
            if not (now or changed or self._ended()) and time.monotonic() - self._last < _PACE:
                return
            if changed:
                newest = self.values["shown"] == self._looks(self.controls)[-1]
                self.controls = controls
                if newest or self.values["shown"] not in self._looks():
                    self.values = self.values | {"shown": self._looks()[-1]}
            motions = self._motions(self.values["shown"])
            signature = [(name, id(motion)) for name, motion in motions.items()]
            if signature != getattr(self, "_drawn", None):
                self._drawn = signature
                self.base = {"player": self._player(self.values["shown"])} if motions else {}
            self.view = self.compute(self.values) or {}

    def _ended(self) -> bool:
        return self.run is not None and not self.run.active

    def _looks(self, controls: Sequence[dict[str, Any]] | None = None) -> list[str]:
        controls = self.controls if controls is None else controls
        return next(c["options"] for c in controls if c["name"] == "shown")

    def _controls(self) -> list[dict[str, Any]]:
        run = self.run
        state = run.state if run else "ready"
        active = run is not None and run.active
        looks = sorted({s.update for r in self._beside() for s in list(r.samples)}) or [0]
        return [
            {"kind": "text", "name": "caption", "label": "your prompt: what is to be seen?"},
            choice("method", "method", list(METHODS)),
            choice("lr", "learning rate", RATES),
            choice("updates", "updates", self._counts),
            choice("every", "sample every", self._pauses),
            button("start", "Start", main=True, off=active),
            button("pause", "Pause", off=state != "running"),
            button("resume", "Resume", off=state != "paused"),
            button("stop", "Stop", off=not active),
            button("save", "Save run and video", off=state not in ("done", "stopped")),
            slider("shown", "motions after update", looks),
        ]  # fmt: skip

    def _beside(self) -> list[TuningRun]:
        """Runs of the last one's caption, the last few."""
        if not self.run:
            return []
        return [r for r in self.runs if r.prompts is self.run.prompts][-_BESIDE:]

    def _name(self, run: TuningRun) -> str:
        return f"run {self.runs.index(run) + 1}: {run.settings.method}, lr {run.settings.lr:g}"

    def _colors(self) -> list[str]:
        """Of all runs, so that a run keeps its own when others are added."""
        return run_colors([run.settings.method for run in self.runs])

    def _motions(self, shown: str) -> dict[str, Motion]:
        """The base model's and, of each run, the last sample up to an update."""
        found: dict[str, Motion] = {}
        for run in self._beside():
            seen = [s for s in list(run.samples) if s.update <= int(shown)]
            if not seen:
                continue
            found.setdefault("before", run.samples[0].motion)
            found[self._name(run)] = seen[-1].motion
        return found

    def _player(self, shown: str) -> View | None:
        motions = self._motions(shown)
        if not motions or self.run is None:
            return None
        colors = [GREY, *(self._colors()[self.runs.index(r)] for r in self._beside())]
        return MotionPlayer(
            list(motions.values()), names=list(motions), colors=colors[: len(motions)],
            title=self.run.prompts.texts[0], height=400,
        ).spec  # fmt: skip

    def _failure(self) -> str:
        failed = self.run is not None and self.run.state == "failed"
        return f"The run failed. {self.run.error}" if failed and self.run else ""

    def _progress(self) -> float | None:
        return (
            self.run.updates / self.run.settings.updates if self.run and self.run.active else None
        )

    def _note(self) -> str:
        run = self.run
        if self._failure() or self._said or run is None:
            return self._failure() or self._said or "Write a prompt and press Start."
        said = numbers(run)
        parts = [
            f"{self._name(run)} is {run.state}",
            f"update {run.updates} of {run.settings.updates}",
            said["seconds"],
            said["left"],
            said["memory"],
        ]
        if run.samples:
            first, last = run.samples[0], run.samples[-1]
            parts.append(f"reward of your prompt {first.own_reward:.2f} to {last.own_reward:.2f}")
        return " · ".join(filter(None, parts))

    def _charts(self) -> list[dict[str, Any]]:
        rewards, norms, held = [], [], []
        shown = list(zip(self.runs, self._colors(), strict=True))[-5:]
        for number, (run, color) in enumerate(shown, len(self.runs[:-5]) + 1):
            name = f"run {number}"
            done = run.updates
            at = list(range(1, done + 1))
            rewards.append(line(name, at, _smooth(run.rewards[:done]), color))
            norms.append(line(name, at, run.grad_norms[:done], color))
            looks = list(run.samples)
            when = [look.update for look in looks]
            held += [
                line(f"{name}, reward", when, [s.reward for s in looks], color),
                line(f"{name}, judge", when, [s.judge for s in looks], color, dash=True),
            ]
        return [
            chart(f"Training reward, mean of {_MEAN} updates", "update", rewards),
            chart("Gradient norm, before clipping", "update", norms, zero=True),
            chart("Held-out prompts: reward, judge", "update", held),
        ]


def _smooth(values: Sequence[float]) -> list[float]:
    """Each with those before it, of which the mean is taken."""
    parts = [values[max(0, i - _MEAN + 1) : i + 1] for i in range(len(values))]
    return [sum(part) / len(part) for part in parts]
