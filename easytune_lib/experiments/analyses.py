"""The analyses as one call each: a bench goes in, a record comes out, ready to be plotted."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import torch

from easytune_lib.analysis.cost import measure
from easytune_lib.analysis.gradients import jacobian_norms, share_norms, step_gradients
from easytune_lib.analysis.noise import similarity_by_step
from easytune_lib.finetuning.loop import batches, copy_for_tuning, finetune
from easytune_lib.finetuning.methods import DRaFT, EasyTune
from easytune_lib.metrics.intervals import band
from easytune_lib.records import RunRecord
from easytune_lib.seeding import stream
from easytune_lib.types import FineTuneMethod


def gradient_norms(
    bench: Any,
    methods: Sequence[FineTuneMethod] | None = None,
    *,
    prompts: int = 3,
    n_steps: int = 0,
    jacobians: bool = True,
    probes: int | None = None,
    seed: int = 0,
) -> RunRecord:
    """Measure where the reward's gradient goes: its share of every denoising step.

    A method that cuts the state has one gradient a step, whose norm is shown; of one that
    backpropagates through the chain it is the step's share of the whole gradient.

    >>> record = et.gradient_norms(bench, [et.DRaFT(), et.EasyTune()], prompts=1, jacobians=False)
    >>> sorted(record.series)
    ['cosine', 'share/DRaFT-4', 'share/EasyTune']

    Args:
        bench: A workbench; its model, reward and test prompts are used.
        methods: DRaFT over the whole chain and EasyTune where ``None``.
        prompts: Test prompts, averaged.
        n_steps: Denoising steps; 0 are the bench's own.
        jacobians: Also the norms of each step's Jacobian and of their product (Figure 3).
        probes: Random probes of an estimate of these; ``None`` takes exact matrices where the
            state is a single latent, and 8 probes elsewhere.
        seed: Of noise and plans.

    Returns:
        ``series``: ``share/<method>``, with Jacobians ``jacobian_norm``, ``product_norm``, their
        spectral norms and the paper's division by the dimension; ``cosine`` of the first chain
        method's shares with EasyTune's gradients. ``metrics``: ``sum_error``, how far the shares
        are from adding up to the whole gradient.

    Source: Tan et al. (2026), Corollaries 1 and 2, Figure 3.
    """
    model = replace(bench.model, n_steps=n_steps or bench.model.n_steps)
    n_steps = model.n_steps
    asked = bench.prompts["test"].first(prompts).prompts
    x_T = model.draw_noise(asked, stream(seed, "gradients"))
    chosen = [DRaFT(), EasyTune()] if methods is None else list(methods)
    series: dict[str, list[float]] = {}
    metrics: dict[str, float] = {}
    if jacobians:
        if probes is None and model.state_shape(asked)[0] > 1:
            probes = 8
        norms = jacobian_norms(model, x_T, asked, probes=probes, rng=stream(seed, "probes"))
        series |= {
            "jacobian_norm": norms.frobenius.mean(1).tolist(),
            "jacobian_spectral": norms.spectral.mean(1).tolist(),
            "product_norm": norms.product_frobenius.mean(1).tolist(),
            "product_spectral": norms.product_spectral.mean(1).tolist(),
            "jacobian_norm_divided": (norms.frobenius / norms.dim.sqrt()).mean(1).tolist(),
            "product_norm_divided": norms.divided.mean(1).tolist(),
        }
    rng = stream(seed, "plans")
    reference = step_gradients(
        model, bench.reward, x_T, asked, EasyTune(n_steps).plan(n_steps, rng)
    )
    for method in chosen:
        plan = method.plan(n_steps, rng)
        name = f"share/{_label(method, n_steps)}"
        if plan.detach_state and plan.rewarded == frozenset(range(n_steps)):
            series[name] = reference.norm(dim=1).tolist()
            first, last = (float(reference[i].norm()) for i in (0, -1))
            metrics["easytune_first_over_last"] = first / last
            continue
        if plan.detach_state:
            series[name] = (
                step_gradients(model, bench.reward, x_T, asked, plan).norm(dim=1).tolist()
            )
            continue
        shares = share_norms(model, bench.reward, x_T, asked, plan, reference=reference)
        series[name] = shares.norms.tolist()
        series.setdefault("cosine", [] if shares.cosine is None else shares.cosine.tolist())
        metrics.setdefault("sum_error", float(shares.error))
        quarter = shares.norms[: n_steps // 4].norm() / shares.norms.norm()
        metrics.setdefault("draft_share_first_quarter", float(quarter))
        metrics.setdefault("draft_largest_over_first", float(shares.norms.max() / shares.norms[0]))
    if "product_norm" in series:
        metrics["product_all_steps"] = series["product_norm"][0]
        metrics["product_last_ten"] = series["product_norm"][-min(10, n_steps)]
    return RunRecord(
        "gradient_norms",
        {"base": bench.base, "n_steps": n_steps, "prompts": prompts, "probes": probes or 0,
         "seed": seed, "weights": bench.digest},
        metrics=metrics,
        series=series,
    )  # fmt: skip


def _label(method: FineTuneMethod, n_steps: int) -> str:
    """A method's name in figures: its class, with k where it takes less than all steps."""
    k = getattr(method, "k", None)
    name = type(method).__name__
    if name == "DRaFT":
        return f"{name}-{k or n_steps}"
    return name if k in (None, n_steps) else f"{name}-{k}"


def noise_similarity(
    bench: Any, *, prompts: int = 24, n_steps: int = 0, seed: int = 0
) -> RunRecord:
    """Measure how alike a noised motion and the final one look, to reward, judge and features.

    >>> record = et.noise_similarity(bench, prompts=4)
    >>> len(record.series["x_t/reward"]) == bench.model.n_steps
    True

    Args:
        bench: A workbench; its model, reward, judge and test prompts are used.
        prompts: Test prompts, averaged; 0 takes all.
        n_steps: Denoising steps; 0 are the bench's own.
        seed: Of the noise.

    Returns:
        ``series``: cosine similarity by step of the state ``x_t/<reader>`` and of the clean
        estimate ``x0_hat/<reader>`` with the final motion, each with ``_low`` and ``_high``.

    Source: Tan et al. (2026), Figure 4.
    """
    model = replace(bench.model, n_steps=n_steps or bench.model.n_steps)
    asked = bench.prompts["test"].first(prompts).prompts
    x_T = model.draw_noise(asked, stream(seed, "similarity"))
    readers = {
        "reward": bench.reward.embed,
        "judge": lambda motion, prompts: bench.judge.embed_motion(motion, prompts.lengths),
        "features": lambda motion, prompts: bench.reward.model.normalise(
            motion, prompts.mask
        ).flatten(1),
    }
    series: dict[str, list[float]] = {}
    for name, read in readers.items():
        seen = similarity_by_step(read, model, x_T, asked)
        series |= band(f"x_t/{name}", seen.noised.tolist())
        series |= band(f"x0_hat/{name}", seen.predicted.tolist())
    return RunRecord(
        "noise_similarity",
        {"base": bench.base, "n_steps": model.n_steps, "prompts": prompts, "seed": seed,
         "weights": bench.digest},
        metrics={
            "steps_above_0.9": sum(value > 0.9 for value in series["x_t/reward"]),
            "x_t_at_half": series["x_t/reward"][model.n_steps // 2],
            "features_at_half": series["x_t/features"][model.n_steps // 2],
            "x0_hat_of_pure_noise": series["x0_hat/reward"][0],
        },
        series=series,
    )  # fmt: skip


def memory(
    bench: Any, counts: Sequence[int] = (), *, batch_size: int = 4, seed: int = 0
) -> RunRecord:
    """Measure what autograd holds for an update, by the number of recorded steps.

    Flat for EasyTune, linear for DRaFT. Each storage counts once, weights not at all.

    >>> rows = et.memory(bench, [1, 4], batch_size=2).tables["memory"]
    >>> [row["method"] for row in rows]
    ['EasyTune', 'EasyTune', 'DRaFT', 'DRaFT']

    Args:
        bench: A workbench; no weight of it is changed.
        counts: Recorded steps, each 1 to the bench's ``n_steps``; a few where none is given.
        batch_size: Prompts.
        seed: Of prompts and noise.

    Returns:
        ``tables["memory"]``: ``method``, ``steps`` and ``saved_mib`` (MiB).

    Source: Tan et al. (2026), Figure 1(a) and its claim of O(1) memory.
    """
    n_steps = bench.model.n_steps
    counts = list(counts) or sorted({1, n_steps // 4 or 1, n_steps // 2 or 1, n_steps})
    rows = [
        {
            "base": bench.base,
            "method": kind.__name__,
            "steps": k,
            "saved_mib": saved_mib(bench, kind(k), batch_size, seed),
        }
        for kind in (EasyTune, DRaFT)
        for k in counts
    ]
    return RunRecord(
        "memory",
        {"base": bench.base, "n_steps": n_steps, "batch_size": batch_size, "seed": seed,
         "weights": bench.digest},
        tables={"memory": rows},
    )  # fmt: skip


def saved_mib(bench: Any, method: FineTuneMethod, batch_size: int, seed: int = 0) -> float:
    """MiB that autograd holds at most for one batch of a method."""
    model = copy_for_tuning(bench.model)
    still = torch.optim.SGD(model.denoiser.parameters(), lr=0.0)
    pool = bench.prompts["finetune"].prompts
    return measure(
        lambda: finetune(
            model, bench.reward, islice(batches(model, pool, batch_size, seed), 1), method, still
        )
    ).saved_mib
