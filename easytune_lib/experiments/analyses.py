"""The analyses as one call each: a bench goes in, a record comes out, ready to be plotted."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from torch import Tensor

from easytune_lib.analysis.gradients import jacobian_norms, share_norms, step_gradients
from easytune_lib.analysis.noise import (
    Reader,
    ranking_by_step,
    similarity_by_noise,
    similarity_by_step,
)
from easytune_lib.diffusion.model import MotionDiffusion
from easytune_lib.diffusion.rollout import sample
from easytune_lib.experiments.compare import cost_rows
from easytune_lib.finetuning.methods import DRaFT, EasyTune
from easytune_lib.metrics.intervals import band, bootstrap
from easytune_lib.models.mld import VAE
from easytune_lib.recipes import REWARDS, VAES, load_network
from easytune_lib.records import RunRecord
from easytune_lib.rewards.alignment import AlignmentReward
from easytune_lib.seeding import stream
from easytune_lib.types import FineTuneMethod, Prompts
from easytune_lib.workbench import WEIGHTS, Workbench, open_reward


def gradient_norms(
    bench: Workbench,
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
    bench: Workbench,
    *,
    prompts: int = 24,
    n_steps: int = 0,
    rank_steps: int = 0,
    rank_prompts: int = 96,
    seed: int = 0,
) -> RunRecord:
    """Measure how alike a noised motion and the final one look, to reward, judge and features.

    >>> record = et.noise_similarity(bench, prompts=4)
    >>> len(record.series["x_t/reward"]) == bench.model.n_steps
    True

    Args:
        bench: Its model, rewards, judge and test prompts are used.
        prompts: Test prompts, averaged; 0 takes all.
        n_steps: Denoising steps; 0 are the bench's own.
        rank_steps: Denoising steps of the ranking by step; 0 leaves out both the ranking and
            the similarity under forward noise, which need the rewards that are shipped.
        rank_prompts: Test prompts of the ranking; 0 takes all.
        seed: Of the noise.

    Returns:
        ``series``, each with ``_low`` and ``_high``: cosine similarity by step of the state
        ``x_t/<reader>`` and of the clean estimate ``x0_hat/<reader>`` with the final motion;
        ``apart/...`` under forward noise, before and behind decoder and encoder; and
        ``rank/<state>/<noise>``, how often the own motion is ranked first among 32 by a reward
        that learned to read through that noise.

    Source: Tan et al. (2026), Figure 4.
    """
    model = replace(bench.model, n_steps=n_steps or bench.model.n_steps)
    asked = bench.prompts["test"].first(prompts).prompts
    x_T = model.draw_noise(asked, stream(seed, "similarity"))
    reward = cast(Any, bench.reward)
    readers = {
        "reward": reward.embed,
        "judge": lambda motion, prompts: bench.judge.embed_motion(motion, prompts.lengths),
        "features": lambda motion, prompts: reward.model.normalise(motion, prompts.mask).flatten(1),
    }
    series: dict[str, list[float]] = {}
    for name, read in readers.items():
        seen = similarity_by_step(read, model, x_T, asked)
        series |= band(f"x_t/{name}", seen.noised.tolist())
        series |= band(f"x0_hat/{name}", seen.predicted.tolist())
    half = model.n_steps // 2
    metrics = {
        "steps_above_0.9": sum(value > 0.9 for value in series["x_t/reward"]),
        "x_t_at_half": series["x_t/reward"][half],
        "features_at_half": series["x_t/features"][half],
        "x0_hat_of_pure_noise": series["x0_hat/reward"][0],
    }
    parameters = {"base": bench.base, "n_steps": model.n_steps, "prompts": prompts, "seed": seed}
    if rank_steps:
        rewards = {noise: open_reward(noise, model.schedule) for noise in REWARDS}
        series |= _under_forward_noise(bench, model, asked, rewards, seed)
        ranked, hits = _ranks(bench, rewards, rank_steps, rank_prompts, seed)
        series |= ranked
        for at, row in (("half", rank_steps // 2), ("end", -1)):
            metrics |= {f"rank_at_{at}_{n}": float(rows[row].mean()) for n, rows in hits.items()}
        parameters |= {"rank_steps": rank_steps, "rank_prompts": rank_prompts}
    parameters["weights"] = bench.digest
    return RunRecord("noise_similarity", parameters, metrics=metrics, series=series)


def _under_forward_noise(
    bench: Workbench,
    model: MotionDiffusion,
    asked: Prompts,
    rewards: Mapping[str, AlignmentReward],
    seed: int,
) -> dict[str, list[float]]:
    """Similarity of a motion to itself under forward noise, by place of the noise and reader."""
    motion = sample(model, asked, stream(seed, "apart"))
    levels = [t for t, _ in model.schedule.times(model.n_steps)][::-1]
    spm = cast(Any, bench.reward).model
    places: dict[str, tuple[Any, Any]] = {
        "features": (
            spm.normalise(motion, asked.mask), lambda x, prompts: spm.denormalise(x, prompts.mask)
        )
    }  # fmt: skip
    if bench.base in VAES:
        vae = load_network(VAE, WEIGHTS / f"{VAES[bench.base]}.safetensors")
        latent = vae.encode(motion, asked.mask)[0].detach()
        places = {"latent": (latent, model.decode)} | places
    series = {"apart/level": [1 - model.schedule.alpha_bar[t].item() for t in levels]}
    for place, (state, decode) in places.items():
        readers: dict[str, tuple[Any, Any]] = {
            "features": (lambda x, prompts: spm.normalise(x, prompts.mask).flatten(1), decode),
            "encoder, noise-trained": (rewards["features"].embed, decode),
            "encoder, clean-trained": (rewards["clean"].embed, decode),
        }
        if place == "latent":
            readers["latent itself"] = (lambda x, prompts: x.flatten(1), lambda x, prompts: x)
        for name, (read, shown) in readers.items():
            rng = stream(seed, "apart", place)
            seen = similarity_by_noise(read, model.schedule, state, shown, asked, levels, rng)
            series |= band(f"apart/{place}/{name}", seen.tolist())
    return series


def _ranks(
    bench: Workbench, rewards: Mapping[str, AlignmentReward], steps: int, count: int, seed: int
) -> tuple[dict[str, list[float]], dict[str, Tensor]]:
    """How often each reward ranks the own motion first, by step; means with bounds, and hits."""
    model = replace(bench.model, n_steps=steps)
    chosen = bench.prompts["test"].first(count)
    readers = {
        f"{state}/{noise}": Reader(reward.embed, reward.embed_text, state, told=noise != "clean")
        for state in ("x_t", "x0_hat")
        for noise, reward in rewards.items()
    }
    x_T = model.draw_noise(chosen.prompts, stream(seed, "ranking"))
    hits = ranking_by_step(readers, model, x_T, chosen.prompts, chosen.labels)
    series: dict[str, list[float]] = {}
    for name, values in hits.items():
        rows = [bootstrap(row, stream(seed, "bootstrap"), draws=500) for row in values]
        series |= {
            f"rank/{name}": [row.mean for row in rows],
            f"rank/{name}_low": [row.low for row in rows],
            f"rank/{name}_high": [row.high for row in rows],
        }
    return series, hits


def memory(
    bench: Workbench, counts: Sequence[int] = (), *, batch_size: int = 4, seed: int = 0
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
    methods = {f"{kind.__name__}|{k}": kind(k) for kind in (EasyTune, DRaFT) for k in counts}
    rows = []
    for row in cost_rows(bench, methods, batch_size, seed):
        name, _, k = str(row["method"]).partition("|")
        kept = {"base": bench.base, "method": name, "steps": int(k)}
        rows.append(kept | {"saved_mib": row["saved_mib"]})
    return RunRecord(
        "memory",
        {"base": bench.base, "n_steps": n_steps, "batch_size": batch_size, "seed": seed,
         "weights": bench.digest},
        tables={"memory": rows},
    )  # fmt: skip
