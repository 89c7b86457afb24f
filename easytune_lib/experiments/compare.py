"""Fine-tuning methods against each other: one resumable run a method, rate and seed.

All runs share base model, reward, prompts, noise and batch size; a run ends when its budget
of seconds (or of updates) is spent. The judge speaks only before and after.
"""

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from copy import deepcopy
from dataclasses import KW_ONLY, asdict, dataclass, fields, replace
from functools import partial
from itertools import islice
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any, Literal

import torch

from easytune_lib import distributed
from easytune_lib.analysis.cost import measure
from easytune_lib.beacon import tell
from easytune_lib.checkpoints import fit, read_checkpoint
from easytune_lib.diffusion.model import MotionDiffusion
from easytune_lib.experiments.tune import Progress, TuneSettings, tune_steps
from easytune_lib.finetuning.loop import (
    Update,
    batches,
    copy_for_tuning,
    finetune,
)
from easytune_lib.finetuning.methods import AlignProp, DRaFT, DRTune, EasyTune, ReFL, recorded
from easytune_lib.metrics.intervals import spread
from easytune_lib.recipes import VAES, RewardNoise
from easytune_lib.records import RunRecord, run_id
from easytune_lib.storage import (
    load_tensors,
    save_tensors,
)
from easytune_lib.training import Precision
from easytune_lib.types import FineTuneMethod
from easytune_lib.workbench import WEIGHTS, Base, Workbench, evaluate, open_workbench, upper_bound


@dataclass(frozen=True)
class Run:
    """What one run is; equal runs have equal ids and are done once.

    Raises:
        ValueError: Not exactly one of the budgets ``seconds`` and ``updates`` is given.
    """

    base: Base
    weights: str  # digest of the bench's files, so that records of other weights never mix
    label: str  # the method's name in figures
    method: FineTuneMethod
    lr: float
    seed: int  # of prompts, noise and the method's choices
    seconds: float = 0.0  # CPU seconds of fine-tuning, evaluation not counted; 0 = no limit
    updates: int = 0  # optimizer steps; 0 = no limit
    batch_size: int = 32
    n_steps: int = 50
    splits: tuple[str, ...] = ("test",)  # prompts that the judge sees
    noise_seeds: int = 2  # generations a prompt
    prompts: int = 0  # at most so many a split; 0 = all
    _: KW_ONLY  # options, off by default
    anchor: float = 0.0  # weight of the distance from the base; see Anchor
    reward: RewardNoise = "features"  # what the reward learned to read through
    max_norm: float = 1.0  # gradients are clipped to it; a small one makes all of one norm
    accumulate: int = 1  # gradients an update; see finetune
    schedule: Literal["constant", "cosine"] = "constant"  # of the rate, over the budget spent
    ema: float = 0.0  # the average of the weights that is judged forgets at this rate; 0 = none
    lora: int = 0  # rank of adapters on attention, which alone are tuned; 0 = all weights are
    precision: Precision = "float32"  # of matrix products; see bf16
    guidance: float | None = None  # scale; None: the backbone's own
    folder: str = ""  # of the weights, as `easytune train` writes it; "": those that are shipped

    def __post_init__(self) -> None:
        if (self.seconds > 0) == (self.updates > 0):
            raise ValueError(
                f"a run needs one budget, got seconds={self.seconds} and updates={self.updates}"
            )

    @property
    def parameters(self) -> dict[str, Any]:
        """As recorded; an option of a run or a method is left out where it is off.

        Where weights lie is no part of it, since ``weights`` says which they are.
        """
        given = asdict(self) | {"method": recorded(self.method), "folder": ""}
        off = {f.name: f.default for f in fields(self) if f.kw_only}
        return {key: value for key, value in given.items() if off.get(key) != value}

    @property
    def record_id(self) -> str:
        """The folder of this run's record."""
        return run_id("finetune", self.parameters)


def contestants(n_steps: int) -> dict[str, FineTuneMethod]:
    """The methods of the comparison by their names in figures, for trajectories of ``n_steps``.

    EasyTune as the paper states it rewards every step; two leaner readings of the same equations
    stand beside it. The others are set as Tan et al. set them, and DRaFT and ReFL in proportion
    to the steps.
    """
    return {
        "EasyTune": EasyTune(n_steps),
        "EasyTune (strided)": EasyTune(n_steps // 5, steps="strided"),
        "EasyTune (random step)": EasyTune(1, steps="random"),
        "DRaFT-10": DRaFT(10),
        f"DRaFT-{n_steps}": DRaFT(n_steps),
        "AlignProp": AlignProp(0.5),
        "DRTune": DRTune(10, 5),
        "ReFL": ReFL(n_steps // 5),
    }


def tuned(
    bench: Workbench,
    run: Run,
    scratch: Path,
    save_every: float = 20.0,
    device: torch.device | str = "cpu",
) -> Iterator[Progress]:
    """Fine-tune and judge; writes record and tuned weights to ``scratch/<run id>``.

    Several processes tune as one, if each is given the same; the first of them judges and writes.

    A run whose record exists is done: nothing is yielded. A killed run goes on from the last
    whole batch that it saved.

    Args:
        bench: With the weights that the run is for.
        run: What to do.
        scratch: For the record, the tuned weights and, until then, the state of the run.
        save_every: CPU seconds between two such states, at least.
        device: Where it is tuned; it is judged where the bench is.

    Raises:
        ValueError: The bench has other weights, or not the prompts that are to be judged.
    """
    if _record(run, scratch) is not None:
        return
    if run.weights != bench.digest:
        raise ValueError(f"the run is for weights {run.weights}, the bench has {bench.digest}")
    path = scratch / run.record_id / "tuned.safetensors"
    if not path.exists():
        yield from _tune(bench, run, path, save_every, device)
    _, config = load_tensors(path)
    if distributed.is_main():
        record = finished_record(bench, load_tuned(bench, run, scratch), run, config["curve"])
        record.save(scratch)


def _tune(
    bench: Workbench, run: Run, path: Path, save_every: float, device: torch.device | str
) -> Iterator[Progress]:
    """Spend the budget, and write tuned weights and curve to ``path``."""
    settings = TuneSettings(**{f.name: getattr(run, f.name) for f in fields(TuneSettings)})
    result = yield from tune_steps(
        bench, run.method, settings, label=run.label, device=device, save_every=save_every,
        state=path.with_name("state.safetensors"),
    )  # fmt: skip
    denoiser = result.model.denoiser
    config = {
        "run": run.parameters,
        "network": getattr(denoiser, "config", {}),
        "curve": result.history,
    }
    if distributed.is_main():
        save_tensors(path, denoiser.state_dict(), config)
        path.with_name("state.safetensors").unlink(missing_ok=True)
    distributed.wait_for_all()  # the file is there for each of them


def finished_record(
    bench: Workbench, model: MotionDiffusion, run: Run, curve: dict[str, list[float]]
) -> RunRecord:
    """The record of a tuned (or untouched) model: its curve and what the judge says.

    Args:
        bench: Whose judge and prompts.
        model: What is judged.
        run: Says on which splits, prompts and noise.
        curve: Reward, seconds, gradient norm and step of each update; may be empty.
    """
    rows = [
        {"split": split} | row
        for split in run.splits
        for row in evaluate(bench, model, split, range(run.noise_seeds), run.prompts)
    ]
    curve = dict(curve)
    seconds = curve.pop("seconds", [0.0])
    return RunRecord(
        name="finetune",
        parameters=run.parameters,
        metrics={"updates": len(curve["reward"])} if curve.get("reward") else {"updates": 0},
        series=curve,
        tables={"scores": rows},
        machine={"seconds": seconds, "threads": torch.get_num_threads()},
    )


def load_tuned(bench: Workbench, run: Run, scratch: Path) -> MotionDiffusion:
    """The model that a finished run left.

    Raises:
        ValueError: There are no such weights in ``scratch``, or they do not fit the bench.
    """
    tuned = with_weights(bench.model, scratch / run.record_id / "tuned.safetensors")
    return replace(tuned, n_steps=run.n_steps)


def with_weights(model: MotionDiffusion, file: Path | str) -> MotionDiffusion:
    """The same with a copy of its denoiser that has the weights in a file.

    Raises:
        ValueError: The file cannot be read, or holds another network; says what.
    """
    denoiser = deepcopy(model.denoiser)
    fit(denoiser, read_checkpoint(file), file)
    return replace(model, denoiser=denoiser)


def run_all(
    planned: Sequence[Run],
    scratch: Path,
    report: Callable[[str], None],
    workers: int = 1,
) -> list[RunRecord]:
    """Do the runs that are not done yet, and return all records, in order.

    Args:
        planned: Runs of one or several bases.
        scratch: For records, tuned weights and the state of runs under way.
        report: Is given a line when a run begins or ends, with the time left.
        workers: Processes of one thread each, so that all runs compute at the same pace.

    Raises:
        ValueError: A run failed; the others are done first.
    """
    missing = [run for run in planned if _record(run, scratch) is None]
    done, began = len(planned) - len(missing), time.monotonic()
    report(f"{done} of {len(planned)} runs are done already, {len(missing)} to go")
    context = get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=end_with_parent) as pool:
        futures = {pool.submit(_work, run, scratch): run for run in missing}
        for count, future in enumerate(as_completed(futures), 1):
            run = futures[future]
            future.result()
            left = (time.monotonic() - began) / count * (len(missing) - count)
            report(
                f"[{done + count}/{len(planned)}] {run.base} {run.label}, lr {run.lr:g}, "
                f"seed {run.seed}: done, {left / 60:.1f} min left"
            )
    return [RunRecord.load(scratch / run.record_id) for run in planned]


def end_with_parent() -> None:
    """Let this process end where the one that started it does, killed kernels among them."""
    parent = parent_process()
    assert parent is not None, "only a process that another started has a parent"

    def wait() -> None:
        parent.join()
        os._exit(1)

    Thread(target=wait, daemon=True).start()


def _record(run: Run, scratch: Path) -> RunRecord | None:
    return RunRecord.find(scratch, "finetune", run.parameters)


def _work(run: Run, scratch: Path) -> None:
    torch.set_num_threads(1)
    folder = Path(run.folder) if run.folder else WEIGHTS
    bench = open_workbench(run.base, run.n_steps, run.guidance, folder, run.reward)
    for at in tuned(bench, run, scratch):
        tell(at.fraction, reward=at.reward, updates=float(at.updates))


METRICS = ("r1", "r2", "r3", "mm_dist", "fid", "diversity", "foot_skate", "jerk", "reward")
"""What the judge, kinematics and the reward say of a run; see :func:`summary`."""


def compare(
    bench: Workbench,
    methods: Mapping[str, FineTuneMethod] | Sequence[FineTuneMethod],
    rates: Mapping[str, float] | Sequence[float],
    *,
    seeds: int = 5,
    updates: int = 0,
    seconds: float = 0.0,
    batch_size: int = 32,
    rate_seeds: int = 2,
    noise_seeds: int = 2,
    prompts: int = 0,
    splits: Sequence[str] = ("test",),
    scratch: Path | str = "outputs/compare",
    workers: int = 1,
    report: Callable[[str], None] = print,
) -> RunRecord:
    """Tune with every method under one reward, equal budgets and identical noise; judge them all.

    Rates are chosen on validation prompts by the judge's MM-Dist, with seeds of their own; what
    is reported is on test prompts, over training seeds, paired with the base under the same
    noise. Each run is kept in ``scratch``: a call that was killed goes on with what is missing.

    >>> methods = {"EasyTune": et.EasyTune(1, "random"), "ReFL": et.ReFL(2)}
    >>> table = et.compare(bench, methods, [1e-4], seeds=1, updates=1, batch_size=2, prompts=66,
    ...     noise_seeds=1, scratch=tmp, report=lambda line: None)
    >>> [row["method"] for row in table.tables["summary"]]
    ['base', 'EasyTune', 'ReFL']

    Args:
        bench: Whose base, reward, judge and prompts.
        methods: By their names in figures, or a list, which are then named by class and k.
        rates: Learning rates to choose from, the same for each method; a single one, or a
            mapping from names to rates, is taken as it is.
        seeds: Training seeds.
        updates: Optimizer steps of each run; 100 where no budget is given.
        seconds: Or CPU seconds of each run, which vary with the machine's load.
        batch_size: Prompts.
        rate_seeds: Training seeds of the choice of rates.
        noise_seeds: Generations a prompt, when judged.
        prompts: At most so many a split, when judged; 0 takes all. FID needs 65.
        splits: Prompts that are reported; never "validation", on which rates are chosen.
        scratch: A folder for single runs.
        workers: Processes of one thread; more than 1 asks for a base that is shipped.
        report: Is given a line when a run begins or ends.

    Returns:
        A record named ``step_finetuning``: ``tables["summary"]`` (means, gains over the base and
        95 % intervals over seeds), ``scores``, ``methods``, ``curves``, ``ceilings`` (real motion
        and the VAE's reconstruction of it) and ``tried`` (rates).

    Raises:
        ValueError: No method or rate is given, or a split is unknown.
    """
    named = dict(methods) if isinstance(methods, Mapping) else label_methods(methods)
    if not named or not rates or "validation" in splits:
        raise ValueError(
            f"expected methods, rates and splits other than validation, got {list(named)}, "
            f"{rates} and {splits}"
        )
    budget = {"updates": updates, "seconds": seconds}
    if not updates and not seconds:
        budget["updates"] = 100
    plan = partial(
        Run, bench.base, bench.digest, batch_size=batch_size, n_steps=bench.model.n_steps, **budget
    )
    do = partial(_run_here if workers == 1 else run_all, scratch=Path(scratch), report=report)
    do = partial(do, bench=bench) if workers == 1 else partial(do, workers=workers)
    tried: list[dict[str, Any]] = []
    if isinstance(rates, Mapping):
        chosen = {label: rates[label] for label in named}
    elif len(rates) == 1:
        chosen = dict.fromkeys(named, rates[0])
    else:
        grid = [
            plan(label, method, lr, 1000 + seed, splits=("validation",), noise_seeds=1)
            for seed in range(rate_seeds)
            for label, method in named.items()
            for lr in rates
        ]
        chosen, tried = best_rates(grid, do(grid))
    planned = [
        plan(label, method, chosen[label], seed, splits=tuple(splits), noise_seeds=noise_seeds,
             prompts=prompts)
        for seed in range(seeds)
        for label, method in named.items()
    ]  # fmt: skip
    return comparison_record(bench, planned, do(planned), {"tried": tried} if tried else {})


def comparison_record(
    bench: Workbench,
    planned: Sequence[Run],
    records: Sequence[RunRecord],
    tables: Mapping[str, list[dict[str, Any]]] | None = None,
) -> RunRecord:
    """One record of many runs, with the base and the upper bounds beside them.

    Args:
        bench: That the runs belong to.
        planned: Runs of one budget; each method has one rate and all seeds.
        records: Of these runs, in the same order.
        tables: More tables for the record.
    """
    run, splits = planned[0], planned[0].splits
    rows = base_rows(bench, splits, run.noise_seeds, run.prompts) + score_rows(planned, records)
    curves, seconds = curve_rows(planned, records)
    metrics = (*METRICS, "mmodality") if run.noise_seeds > 1 else METRICS
    budget = {"seconds": run.seconds} if run.seconds else {"updates": run.updates, "seconds": 0.0}
    return RunRecord(
        "step_finetuning",
        {"base": run.base, "n_steps": run.n_steps, **budget,
         "seeds": len({each.seed for each in planned}),
         "rates": {each.label: each.lr for each in planned}, "batch_size": run.batch_size,
         "noise_seeds": run.noise_seeds, "prompts": run.prompts, "weights": run.weights},
        tables={
            "scores": rows,
            "ceilings": upper_bound_rows(bench, splits, run.prompts),
            "methods": seed_rows(rows, splits[0]),
            **{split: seed_rows(rows, split) for split in splits[1:]},
            "summary": [row for split in splits for row in summary(rows, split, metrics)],
            "curves": curves,
            **(tables or {}),
        },
        machine={"curve_seconds": seconds},
    )  # fmt: skip


def label_methods(methods: Sequence[FineTuneMethod]) -> dict[str, FineTuneMethod]:
    """Names for figures: the class, with k and what is unlike the class's own where given.

    Raises:
        ValueError: Two methods are equal.
    """
    named: dict[str, FineTuneMethod] = {}
    for method in methods:
        (values,) = recorded(method).values()
        steps = f" ({values['steps']})" if values.get("steps", "last") != "last" else ""
        k = values.get("k") or values.get("window")
        name = f"{type(method).__name__}{f'-{k}' if k else ''}{steps}"
        if name in named:
            raise ValueError(f"two methods are called {name!r}: give a mapping of names to methods")
        named[name] = method
    return named


def _run_here(
    planned: Sequence[Run], bench: Workbench, scratch: Path, report: Callable[[str], None]
) -> list[RunRecord]:
    """Do the runs that are not done yet, one after the other, in this process."""
    began, missing = time.monotonic(), [run for run in planned if _record(run, scratch) is None]
    report(f"{len(planned) - len(missing)} of {len(planned)} runs are done already")
    for count, run in enumerate(missing, 1):
        for _ in tuned(bench, run, scratch):
            pass
        left = (time.monotonic() - began) / count * (len(missing) - count)
        report(
            f"[{count}/{len(missing)}] {run.label}, lr {run.lr:g}, seed {run.seed}: done, "
            f"{left / 60:.1f} min left"
        )
    return [RunRecord.load(scratch / run.record_id) for run in planned]


def score_rows(planned: Sequence[Run], records: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """What the judge said: one row a run, split and noise seed."""
    return [
        {"method": run.label, "seed": run.seed, "lr": run.lr, **row}
        for run, record in zip(planned, records, strict=True)
        for row in record.tables["scores"]
    ]


def base_rows(
    bench: Workbench, splits: Sequence[str], noise_seeds: int, prompts: int = 0
) -> list[dict[str, Any]]:
    """What the judge says of the untouched base, under the same noise.

    Args:
        bench: Whose base.
        splits: As of the runs.
        noise_seeds: Generations a prompt, as of the runs.
        prompts: At most so many a split, as of the runs.
    """
    return [
        {"method": "base", "seed": 0, "lr": 0.0, "split": split} | row
        for split in splits
        for row in evaluate(bench, bench.model, split, range(noise_seeds), prompts)
    ]


def upper_bound_rows(
    bench: Workbench, splits: Sequence[str], prompts: int = 0
) -> list[dict[str, Any]]:
    """What the judge says of real motion and, for a latent model, of the VAE's reconstruction.

    Args:
        bench: Whose judge and prompts.
        splits: As of the runs.
        prompts: As of the runs.
    """
    kinds = ("real", "VAE") if VAES.get(bench.base) == "vae" else ("real",)
    return [
        {"method": kind, "split": split} | upper_bound(bench, kind, split, prompts)
        for split in splits
        for kind in kinds
    ]


def summary(
    rows: Sequence[dict[str, Any]], split: str, metrics: Sequence[str]
) -> list[dict[str, Any]]:
    """Mean of each metric, and the gain over the base with its 95 % interval over seeds.

    Every training seed is judged under the noise that the base was judged under, so the gain
    of a seed is paired. With one training seed there is no interval: both ends are ``None``.

    Args:
        rows: Of :func:`base_rows` and :func:`score_rows`.
        split: Which of the rows.
        metrics: Which columns, for instance ``("r1", "fid")``.
    """
    seeds = seed_rows(rows, split)
    (base,) = (row for row in seeds if row["method"] == "base")
    result = []
    for method in dict.fromkeys(row["method"] for row in seeds):
        own = [row for row in seeds if row["method"] == method]
        line: dict[str, Any] = {"method": method, "split": split, "seeds": len(own)}
        for metric in metrics:
            gains = [row[metric] - base[metric] for row in own]
            gain, low, high = spread(gains)
            line |= {
                metric: _mean([row[metric] for row in own]),
                f"{metric}_gain": gain,
                f"{metric}_gain_low": low,
                f"{metric}_gain_high": high,
            }
        result.append(line)
    return result


def paired_rows(
    rows: Sequence[dict[str, Any]], split: str, rival: str, metrics: Sequence[str]
) -> list[dict[str, Any]]:
    """Each method's difference from ``rival``, seed by seed, with its 95 % interval over seeds.

    Seeds are paired, since they share prompts and noise in training and before the judge. Those
    that one of the two lacks are left out; with a single one both ends are ``None``.

    Args:
        rows: Of :func:`score_rows`.
        split: Which of the rows.
        rival: A method.
        metrics: Which columns, for instance ``("r1", "mm_dist")``.

    Raises:
        ValueError: There are no rows of the rival.
    """
    seeds = {(row["method"], row["seed"]): row for row in seed_rows(rows, split)}
    theirs = {seed: row for (method, seed), row in seeds.items() if method == rival}
    if not theirs:
        raise ValueError(
            f"no rows of {rival!r} on {split}: there are {sorted({m for m, _ in seeds})}"
        )
    result = []
    for method in dict.fromkeys(method for method, _ in seeds if method not in ("base", rival)):
        both = [seed for seed in theirs if (method, seed) in seeds]
        line: dict[str, Any] = {
            "method": method,
            "rival": rival,
            "split": split,
            "seeds": len(both),
        }
        for metric in metrics:
            apart = [seeds[method, seed][metric] - theirs[seed][metric] for seed in both]
            line[metric], line[f"{metric}_low"], line[f"{metric}_high"] = spread(apart)
        result.append(line)
    return result


def curve_rows(
    planned: Sequence[Run], records: Sequence[RunRecord]
) -> tuple[list[dict[str, Any]], list[list[float]]]:
    """Training reward of each update, one row a run; and the CPU seconds at each update."""
    rows = [
        {
            "method": run.label,
            "seed": run.seed,
            "reward": [round(value, 4) for value in record.series["reward"]],
        }
        for run, record in zip(planned, records, strict=True)
    ]
    return rows, [[round(t, 2) for t in record.machine["seconds"]] for record in records]


def seed_rows(rows: Sequence[dict[str, Any]], split: str) -> list[dict[str, Any]]:
    """One row a method and training seed: the mean over noise seeds of every metric."""
    groups: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["split"] == split:
            groups[row["method"], row["seed"]].append(row)
    metrics = [k for k, v in rows[0].items() if isinstance(v, float) and k != "lr"]
    return [
        {"method": method, "seed": seed}
        | {metric: _mean([row[metric] for row in group]) for metric in metrics}
        for (method, seed), group in groups.items()
    ]


def best_rates(
    planned: Sequence[Run],
    records: Sequence[RunRecord],
    metric: str = "mm_dist",
    earlier: Sequence[dict[str, Any]] = (),
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """For each method the rate with the lowest mean ``metric``, and all that was tried.

    Meant for runs judged on validation prompts; the judge's MM-Dist moves where R-precision
    of an easy split is saturated.

    Args:
        planned: Runs of each method and rate; the mean is over seeds and noise.
        records: Of :func:`run_all`, in the same order.
        metric: A column of the judge's scores of which less is better.
        earlier: What a search under the same budget tried, so that a grid may be widened; rows
            of methods and rates that are tried now, or of other seeds, are left out.
    """
    tried = score_rows(planned, records)
    again = {(row["method"], row["lr"]) for row in tried}
    seeds = {row["seed"] for row in tried}
    tried += [
        row for row in earlier if row["seed"] in seeds and (row["method"], row["lr"]) not in again
    ]
    found: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in tried:
        found[row["method"]][row["lr"]].append(row[metric])
    best = {m: min(rates, key=lambda lr: _mean(rates[lr])) for m, rates in found.items()}
    return best, tried


def cost_rows(
    bench: Workbench, methods: Mapping[str, FineTuneMethod], batch_size: int = 4, seed: int = 0
) -> list[dict[str, Any]]:
    """What one batch of each method costs: memory held by autograd, and seconds an update.

    ``saved_mib`` and ``updates`` repeat exactly; seconds are this machine's.

    Args:
        bench: Whose base, reward and prompts; no weight of it is changed.
        methods: By label.
        batch_size: Prompts.
        seed: Of prompts, noise and the methods' choices.
    """
    model = copy_for_tuning(bench.model)
    still = torch.optim.SGD(model.denoiser.parameters(), lr=0.0)

    def once(method: FineTuneMethod) -> Callable[[], Iterator[Update]]:
        pool = bench.prompts["finetune"].prompts
        return lambda: finetune(
            model, bench.reward, islice(batches(model, pool, batch_size, seed), 1), method, still
        )

    costs = {label: measure(once(method)) for label, method in methods.items()}
    return [
        {
            "base": bench.base,
            "method": label,
            "batch_size": batch_size,
            "n_steps": model.n_steps,
            "saved_mib": cost.saved_mib,
            "updates": cost.updates_per_trajectory,
            "cpu_seconds": cost.cpu_seconds,
            "wall_seconds": cost.wall_seconds,
        }
        for label, cost in costs.items()
    ]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
