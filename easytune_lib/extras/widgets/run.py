"""One fine-tuning run in a thread, which can be paused without changing what is learned."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch.nn import functional as F

from easytune_lib.analysis.cost import process_peak_mib
from easytune_lib.diffusion.rollout import sample
from easytune_lib.finetuning.loop import Update, batches, copy_for_tuning, finetune
from easytune_lib.finetuning.methods import (
    AlignProp,
    DRaFT,
    DRTune,
    EasyTune,
    ReFL,
    recorded,
)
from easytune_lib.metrics.report import embed_motions
from easytune_lib.motion.motion import Motion
from easytune_lib.records import RunRecord
from easytune_lib.seeding import stream
from easytune_lib.types import FineTuneMethod, Prompts
from easytune_lib.workbench import Workbench, motions_of

State = Literal["ready", "running", "paused", "stopped", "done", "failed"]

METHODS: dict[str, FineTuneMethod] = {
    "EasyTune, random step": EasyTune(1, steps="random"),
    "EasyTune, 4 strided": EasyTune(4, steps="strided"),
    "DRaFT-5": DRaFT(5),
    "AlignProp": AlignProp(),
    "DRTune": DRTune(5),
    "ReFL": ReFL(5),
}


@dataclass(frozen=True)
class Settings:
    """What decides a run, all of it."""

    method: str = "EasyTune, random step"  # of METHODS
    lr: float = 2e-4
    updates: int = 60
    every: int = 20  # updates between samples
    batch_size: int = 16
    held_out: int = 16  # validation prompts that each sample is judged on
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method is one of {', '.join(METHODS)}; got {self.method!r}")
        if self.updates < 1 or self.every < 1 or not self.lr > 0:
            raise ValueError(
                f"updates and every are 1 or more, lr is positive; got {self.updates}, "
                f"{self.every}, {self.lr}"
            )


@dataclass(frozen=True)
class Sample:
    """The own prompt's motion after some updates, and what is said of held-out prompts."""

    update: int
    motion: Motion
    own_reward: float
    reward: float  # mean over held-out prompts
    judge: float  # the judge's mean cosine of motion and caption, of the same


@dataclass
class TuningRun:
    """A run that can be started, paused, resumed and stopped from another thread.

    Pausing waits between two updates; neither a pause nor a sample draws from the streams of
    training, so what is learned depends on the settings alone.

    Args:
        bench: Whose model is tuned, in a copy, and whose reward and judge speak.
        prompts: The one caption to be watched, as from ``make_prompts``; it is not trained on.
        settings: Of the run.
        tell: Called after each change, in the run's thread.
    """

    bench: Workbench
    prompts: Prompts
    settings: Settings = field(default_factory=Settings)
    tell: Callable[["TuningRun"], object] = lambda run: None
    state: State = "ready"
    error: str = ""
    rewards: list[float] = field(default_factory=list)
    grad_norms: list[float] = field(default_factory=list)
    seconds: float = 0.0  # of work; pauses do not count
    samples: list[Sample] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.model = copy_for_tuning(self.bench.model)
        self._go, self._end = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="fine-tuning", daemon=True)

    @property
    def updates(self) -> int:
        """Optimizer steps made."""
        return len(self.rewards)

    @property
    def seconds_left(self) -> float | None:
        """At the pace so far; ``None`` before the first update."""
        if not self.updates:
            return None
        return self.seconds / self.updates * (self.settings.updates - self.updates)

    @property
    def active(self) -> bool:
        """Whether the run may go on."""
        return self.state in ("running", "paused")

    def start(self) -> None:
        """Begin.

        Raises:
            ValueError: It has begun before.
        """
        if self.state != "ready":
            raise ValueError(f"this run is {self.state}: make another one")
        self.state = "running"
        self._go.set()
        self._thread.start()

    def pause(self) -> None:
        """Wait after the update that is being made."""
        if self.state == "running":
            self._go.clear()
            self.state = "paused"
            self.tell(self)

    def resume(self) -> None:
        """Go on where it waits."""
        if self.state == "paused":
            self.state = "running"
            self._go.set()
            self.tell(self)

    def stop(self) -> None:
        """End after the update that is being made; what was learned stays."""
        self._end.set()
        self._go.set()

    def wait(self, seconds: float | None = None) -> "TuningRun":
        """Until the run has ended, or so many seconds have passed."""
        if self.state != "ready":
            self._thread.join(seconds)
        return self

    def record(self) -> RunRecord:
        """What there is to keep, as numbers."""
        shown = [
            {k: v for k, v in vars(sample).items() if k != "motion"} for sample in self.samples
        ]
        settings = asdict(self.settings) | {"method": recorded(METHODS[self.settings.method])}
        first, last = self.samples[0], self.samples[-1]
        return RunRecord(
            "cockpit",
            {"base": self.bench.base, "n_steps": self.bench.model.n_steps,
             "weights": self.bench.digest, "caption": self.prompts.texts[0],
             "made": self.updates, **settings},
            metrics={"own_reward_before": first.own_reward, "own_reward_after": last.own_reward,
                     "judge_before": first.judge, "judge_after": last.judge},
            series={"reward": self.rewards, "grad_norm": self.grad_norms},
            tables={"samples": shown},
            machine={"seconds": self.seconds, "peak_mib": process_peak_mib()},
        )  # fmt: skip

    def _work(self) -> None:
        try:
            for _ in self._steps():
                self.tell(self)
                self._go.wait()
                if self._end.is_set():
                    break
            self.state = "done" if self.updates == self.settings.updates else "stopped"
        except Exception as error:  # of any kind: whoever watches must hear of it
            self.state, self.error = "failed", f"{type(error).__name__}: {error}"
        self.tell(self)

    def _steps(self) -> Iterator[None]:
        """Yields after the first sample, and after each update with the sample that is due."""
        made = self._updates()
        since = time.perf_counter()
        self._look()
        while True:
            self.seconds += time.perf_counter() - since
            yield
            if self.updates == self.settings.updates:
                return
            since = time.perf_counter()
            update = next(made)
            self.grad_norms.append(update.grad_norm)
            self.rewards.append(update.reward)
            if self.updates % self.settings.every == 0 or self.updates == self.settings.updates:
                self._look()

    def _updates(self) -> Iterator[Update]:
        s, pool = self.settings, self.bench.prompts["finetune"].prompts
        weights = self.model.denoiser.parameters()
        optimizer = torch.optim.AdamW(weights, lr=s.lr, weight_decay=0.0)
        drawn = batches(self.model, pool, s.batch_size, s.seed)
        return finetune(self.model, self.bench.reward, drawn, METHODS[s.method], optimizer)

    @torch.no_grad()
    def _look(self) -> None:
        bench, seed = self.bench, self.settings.seed
        own = sample(self.model, self.prompts, stream(seed, "own"))
        held = bench.prompts["validation"].first(self.settings.held_out).prompts
        motions = sample(self.model, held, stream(seed, "held"))
        judged = embed_motions(bench.judge, motions, held.lengths)
        asked = bench.judge.embed_text(held.texts)
        self.samples.append(
            Sample(
                self.updates,
                motions_of(own, self.prompts)[0],
                float(bench.reward(own, self.prompts)),
                float(bench.reward(motions, held).mean()),
                float(F.cosine_similarity(judged, asked, dim=-1).mean()),
            )
        )


def numbers(run: TuningRun) -> dict[str, Any]:
    """Seconds, what is left, and memory, as the cockpit says them."""
    left = run.seconds_left
    return {
        "seconds": f"{run.seconds:.0f} s",
        "left": "" if left is None or not run.active else f"{left:.0f} s left",
        "memory": f"at most {process_peak_mib():.0f} MiB",
    }
