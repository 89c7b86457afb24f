"""Every printed figure: from which records it is drawn, by what, and with which caption.

:func:`printed` finds in a folder of runs what there is to draw. It takes no model and no
notebook; what cannot be drawn from a record alone stands in :data:`LEFT_OUT`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from easytune_lib.records import RunRecord, leading
from easytune_lib.viz import cost, curves, rewards
from easytune_lib.viz.paper import (
    FIGURE_3,
    FIGURE_4,
    FIGURE_6,
    FIGURE_7,
    FIGURE_8,
    MEMORY_SHARE,
    TABLE_2,
    TRAINING_CURVES,
)
from easytune_lib.viz.save import save_figure
from easytune_lib.viz.style import OURS, Venue
from easytune_lib.viz.theory import plot_theory

LAPTOP, FULL = ("laptop",), ("full",)
LEFT_OUT = {
    "tour_strip": "shows a generated motion, which its record does not hold: notebook 00 draws it",
    "before_after": "shows two motions, which its record does not hold: notebook 06 draws it",
}
"""Figures of notebooks that no record alone gives, and why."""

Parameters = Mapping[str, Any]
Data = Callable[[RunRecord], Mapping[str, Any]]


@dataclass(frozen=True)
class Printed:
    """One figure, and the records that it may be drawn from.

    Its name and caption may hold the record's parameters in braces, and ``{real}``, which is
    ``_real`` for motion that was recorded and nothing for synthetic one.
    """

    name: str
    kind: str  # of the record
    plot: Callable[[RunRecord, float], Figure]  # at a width in inches
    caption: str
    data: Data
    sizes: Callable[[Parameters], Sequence[str]]  # among whose figures a record's is; (): nowhere
    by: str = "seconds"  # of several records, that with the most of this is drawn
    wide: bool = True  # over the page, or one column

    def of(self, record: RunRecord, text: str) -> str:
        """``text`` with the record's parameters in it."""
        real = "" if record.parameters.get("data", "synthetic") == "synthetic" else "_real"
        given = record.parameters
        budget = f"{s:g} s" if (s := given.get("seconds")) else f"{given.get('updates')} updates"
        return text.format(**given, real=real, budget=budget)

    def draw(self, record: RunRecord, venue: Venue = OURS) -> Figure:
        """The figure, as wide as the venue has it."""
        return self.plot(record, venue.page if self.wide else venue.column)

    def save(self, record: RunRecord, folder: Path, venue: Venue = OURS) -> Path:
        """Draw it into ``folder``, with the data behind it, its caption and its run's id."""
        return self.write(self.draw(record, venue), record, folder)

    def write(self, figure: Figure, record: RunRecord, folder: Path) -> Path:
        """Write a figure that is drawn, as :meth:`save` does."""
        return save_figure(
            figure, self.of(record, self.name), folder, record,
            self.data(record), self.of(record, self.caption),
        )  # fmt: skip


def printed(runs: Path, size: str) -> list[tuple[str, Printed, RunRecord]]:
    """What there is to draw of a size, by name: the figure, and of its records the leading one.

    Args:
        runs: The folder of records.
        size: "laptop" or "full".
    """

    def name_of(entry: Printed, record: RunRecord) -> str | None:
        own = size in entry.sizes(record.parameters)
        return entry.of(record, entry.name) if own else None

    return [(name, *found) for name, found in leading(runs, FIGURES, name_of).items()]


def plot(
    record: RunRecord,
    name: str | None = None,
    folder: Path | str | None = None,
    *,
    venue: Venue = OURS,
) -> Figure:
    """Draw a figure of a record, and save it where a folder is given.

    >>> et.plot(et.memory(bench, [1, 4], batch_size=2)).axes[0].get_ylabel()
    'held for backward (MiB)'

    Args:
        record: What an analysis returned, a notebook wrote, or ``RunRecord.load`` read.
        name: Which of the record's figures, as :func:`names` lists them; the first where ``None``.
        folder: For the figure as PDF, SVG and PNG, its numbers and its caption.
        venue: Whose widths the figure has.

    Raises:
        ValueError: There is no such figure of this record; says which there are.
    """
    entry = figure_of(record, name)
    figure = entry.draw(record, venue)
    if folder is not None:
        entry.write(figure, record, Path(folder))
    return figure


def names(record: RunRecord) -> list[str]:
    """The figures that can be drawn from a record."""
    return [entry.of(record, entry.name) for entry in FIGURES if entry.kind == record.name]


def figure_of(record: RunRecord, name: str | None = None) -> Printed:
    """The entry of a record's figure; arguments and errors as of :func:`plot`."""
    own = [entry for entry in FIGURES if entry.kind == record.name]
    chosen = [entry for entry in own if name in (None, entry.name, entry.of(record, entry.name))]
    if not chosen:
        kinds = sorted({entry.kind for entry in FIGURES})
        raise ValueError(
            f"a record of {record.name!r} has no figure {name!r}; it has {names(record)}"
            if own
            else f"no figure is drawn from a record of {record.name!r}; there are some of {kinds}"
        )
    return chosen[0]


def _from(key: str, least: int | float) -> Callable[[Parameters], Sequence[str]]:
    """A record of the full size has at least so much of ``key``."""
    return lambda parameters: FULL if parameters[key] >= least else LAPTOP


def _both(parameters: Parameters) -> Sequence[str]:
    """Long runs have one record, which is shown beside those of either size."""
    return LAPTOP + FULL


def _nowhere(parameters: Parameters) -> Sequence[str]:
    """Drawn on demand, never among the committed figures."""
    return ()


def _only(parameters: Parameters) -> Sequence[str]:
    return LAPTOP


def _real(parameters: Parameters) -> Sequence[str]:
    return LAPTOP if parameters["data"] == "synthetic" else FULL


def _own(parameters: Parameters) -> Sequence[str]:
    """Notebook 08 shows one weight, and tells of another in its text."""
    if parameters["weight"] != 0.5:
        return ()
    return FULL if parameters["updates"] >= 100 else LAPTOP


def _tables(*names: str) -> Data:
    """Some of the tables, or all."""
    return lambda record: {name: record.tables[name] for name in names or record.tables}


def _series(*starts: str) -> Data:
    """Series that start so, or all."""
    return lambda record: {
        key: values for key, values in record.series.items() if key.startswith(starts or "")
    }


def _reached(base: str, record: RunRecord) -> Mapping[str, Any]:
    return {"reach": [row for row in record.tables["reach"] if row["base"] == base]}


def _reach(base: str, record: RunRecord, width: float) -> Figure:
    return cost.plot_reach(record, base, width)


def _quality_memory(metric: str, record: RunRecord, width: float) -> Figure:
    return cost.plot_quality_memory(record, metric, width)


_PEOPLE = {f"paper's people, {name}": values for name, values in FIGURE_7.items()}
_JUDGED = ("r1", "mm_dist", "fid")


def _methods(record: RunRecord, width: float) -> Figure:
    return curves.plot_method_table(record, _JUDGED, width)


FIGURES = (
    Printed(
        "tour_reward_by_step",
        "tour",
        curves.plot_reward_by_step,
        "Mean reward of every denoising step over {prompts} test prompts, {base}",
        _series(),
        _from("n_steps", 50),
        by="n_steps",
        wide=False,
    ),
    Printed(
        "gradient_norms_{base}",
        "gradient_norms",
        lambda record, width: curves.plot_gradient_norms(record, FIGURE_3, width),
        "Jacobian norms, their product and gradient shares along {n_steps} denoising "
        "steps ({base})",
        _series(),
        _from("prompts", 8),
        by="prompts",
    ),
    Printed(
        "noise_similarity_{base}",
        "noise_similarity",
        lambda record, width: curves.plot_noise_similarity(record, FIGURE_4, width),
        "Similarity of noised and predicted motions to the final one, {base}, {n_steps} steps",
        _series("x"),
        _from("rank_steps", 50),
        by="prompts",
    ),
    Printed(
        "noise_apart_{base}",
        "noise_similarity",
        rewards.plot_noise_apart,
        "Similarity under forward noise, read before and behind decoder and encoder, {base}",
        _series("apart"),
        _from("rank_steps", 50),
        by="prompts",
    ),
    Printed(
        "ranking_by_step_{base}",
        "noise_similarity",
        rewards.plot_ranking_by_step,
        "Own motion ranked first among 32, by reward and denoising step, {base}, "
        "{rank_steps} steps",
        _series("rank"),
        _from("rank_steps", 50),
        by="prompts",
    ),
    Printed(
        "retrieval_spl{real}",
        "reward_training_spl",
        rewards.plot_recall,
        "Gain in recall over a start of {starts} steps, by arm, {data}, {seeds} seed(s)",
        _tables("recall"),
        _real,
        by="seeds",
    ),
    Printed(
        "refinement{real}",
        "reward_training_spl",
        lambda record, width: rewards.plot_refinement(record, FIGURE_8, width),
        "SPL by K and pool, and checkpoints won against plain training, {data}",
        _tables("sweep", "wins"),
        _real,
        by="seeds",
    ),
    Printed(
        "reward_curves_{base}",
        "step_finetuning",
        lambda record, width: curves.plot_reward_curves(record, "seconds", width, TRAINING_CURVES),
        "Training reward against CPU seconds, {base}, {seeds} seed(s) of {budget}",
        _tables("curves"),
        _from("seconds", 20),
        wide=False,
    ),
    Printed(
        "methods_{base}",
        "step_finetuning",
        _methods,
        "R-precision top 1, MM-Dist and FID of each method on test prompts, {base}",
        _tables("methods"),
        _from("seconds", 20),
    ),
    Printed(
        "memory_{base}",
        "step_finetuning",
        curves.plot_memory,
        "Memory held for backward against recorded steps, {base}, 4 prompts",
        _tables("memory"),
        _from("seconds", 20),
        wide=False,
    ),
    Printed(
        "memory_{base}_{n_steps}",
        "memory",
        curves.plot_memory,
        "Memory held for backward against recorded steps, {base}, {batch_size} prompts",
        _tables("memory"),
        _nowhere,
        wide=False,
    ),
    Printed(
        "tuning_{base}",
        "tuning",
        lambda record, width: curves.plot_reward_curves(record, "updates", width),
        "Training reward of {label}, {base}, lr {lr:g}, seed {seed}",
        _tables("curves"),
        _nowhere,
        wide=False,
    ),
    Printed(
        "step_weights_{base}",
        "step_weights",
        _methods,
        "Uniform, early and late weights of the steps' rewards, {base}, {seconds:g} s; "
        "the paper's text: early is best",
        _tables("methods"),
        _both,
    ),
    Printed(
        "backbone_cost",
        "backbones",
        curves.plot_backbone_cost,
        "Memory held for backward on both backbones, {batch_size} prompts, {n_steps} steps",
        _tables(),
        _from("n_steps", 50),
        by="n_steps",
    ),
    Printed(
        "does_it_hold",
        "does_it_hold",
        curves.plot_claims,
        "EasyTune against its rivals at equal compute, MM-Dist under the independent judge",
        _tables("claims"),
        _only,
        by="seeds",
    ),
    Printed(
        "own_reward",
        "own_reward",
        curves.plot_reward_parts,
        "A reward of one's own alone and in a mix, {updates} updates, {base}",
        _tables("parts"),
        _own,
        by="updates",
    ),
    Printed(
        "reward_hacking_{base}",
        "reward_hacking",
        lambda record, width: rewards.plot_hacking(record, width=width),
        "Reward, judge and distance from the base over an over-long fine-tuning, {base}",
        _tables("looks"),
        _from("updates", 200),
        by="updates",
    ),
    Printed(
        "preferences",
        "preference_study",
        lambda record, width: curves.plot_preferences(record, _PEOPLE, width),
        "Votes for base, same and tuned with exact 95 % intervals, {base}, {pairs} pairs;"
        " judge and reward are simulated raters; light: the paper's user study (MLD, "
        "digitised)",
        lambda record: {"preferences": record.tables["preferences"], "paper": _PEOPLE},
        _only,
        by="pairs",
        wide=False,
    ),
    Printed(
        "which_reward_{base}",
        "which_reward",
        _methods,
        "EasyTune by reward and state read, on test prompts, {base}",
        _tables("methods"),
        _from("seconds", 20),
    ),
    Printed(
        "better_easytune_{base}",
        "better_easytune",
        lambda record, width: curves.plot_paired(record, _JUDGED, width),
        "Paired differences from ReFL on test prompts, {base}",
        _tables("paired"),
        _from("seconds", 20),
    ),
    Printed(
        "six_backbones",
        "six_backbones",
        lambda record, width: curves.plot_six_backbones(record, width, TABLE_2),
        "Gain and memory of EasyTune and DRaFT, {seeds} seed(s) of {seconds:g} CPU seconds",
        _tables("backbones"),
        _from("seconds", 15),
    ),
    Printed(
        "equal_evaluations_{base}",
        "equal_evaluations",
        _methods,
        "Each method after {updates} reward evaluations, {base}",
        _tables("methods"),
        _both,
        by="updates",
    ),
    *(
        Printed(
            f"quality_memory_{metric}",
            "alignment_cost",
            partial(_quality_memory, metric),
            f"The judge's {metric} against memory held for backward, {{batch_size}} prompts",
            _tables("quality"),
            _from("batch_size", 8),
            by="batch_size",
        )
        for metric in ("r1", "mm_dist")
    ),
    Printed(
        "memory_by_step",
        "alignment_cost",
        lambda record, width: cost.plot_held_by_step(record, FIGURE_6, width),
        "Memory held for backward after each denoising step, {batch_size} prompts",
        _tables("held_by_step"),
        _from("batch_size", 8),
        by="batch_size",
    ),
    *(
        Printed(
            f"reach_{base}",
            "alignment_cost",
            partial(_reach, base),
            f"How long each method takes to a training reward, {base}",
            partial(_reached, base),
            _from("batch_size", 8),
            by="batch_size",
        )
        for base in ("mld_early", "mld", "mdm")
    ),
    Printed(
        "scaling",
        "alignment_cost",
        cost.plot_scaling,
        "Memory and CPU seconds of an update: measured (marks) and foretold (lines)",
        lambda record: {"memory": record.tables["scaling"], "seconds": record.machine["scaling"]},
        _from("batch_size", 8),
        by="batch_size",
    ),
    Printed(
        "held_slopes",
        "alignment_cost",
        cost.plot_held_slopes,
        "Cosine of EasyTune's gradients with held slopes and exact ones, along the chain",
        _tables("held_slopes"),
        _from("batch_size", 8),
        by="batch_size",
    ),
    Printed(
        "bench",
        "bench",
        lambda record, width: cost.plot_bench(record, MEMORY_SHARE, width),
        "An update of EasyTune against a plain loop, and memory beside DRaFT's, T = {n_steps}, "
        "{batch_size} prompts",
        lambda record: {"updates": record.machine["updates"], "memory": record.tables["methods"]},
        _both,
        by="batch_size",
    ),
    Printed(
        "single_run_{base}",
        "single_run",
        lambda record, width: curves.plot_reward_curves(record, width=width),
        "Training reward of one run: {label}, {base}, lr {lr:g}, seed {seed}",
        _tables("curves"),
        _only,
        wide=False,
    ),
    Printed(
        "bring_your_own_gradients",
        "bring_your_own",
        lambda record, width: curves.plot_gradient_norms(record, width=width),
        "Where the reward gradient goes in a model of one's own, {n_steps} steps",
        _series("jacobian", "product", "share"),
        _from("n_steps", 20),
        by="n_steps",
    ),
    Printed(
        "bring_your_own_noise",
        "bring_your_own",
        lambda record, width: curves.plot_noise_similarity(record, width=width),
        "Similarity to the final motion in a model of one's own, {n_steps} steps",
        _series("x"),
        _from("n_steps", 20),
        by="n_steps",
    ),
    Printed(
        "theory_{base}",
        "theory",
        plot_theory,
        "EasyTune's gradient against the chain's along a fine-tuning ({base}), and the "
        "bound on a toy",
        _tables(),
        _from("updates", 100),
        by="updates",
    ),
)
"""Each figure; several of a kind share a record."""
