"""The guides' tables, drawn from the committed records: ``python -m tools.readme``.

A block between ``<!-- NAME -->`` and ``<!-- /NAME -->`` is replaced by what its function makes, so
that no number in a table is typed in by hand; a test holds the two together.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from easytune_lib.app.notebook import read_notebook
from easytune_lib.experiments.claims import longest
from easytune_lib.records import RunRecord

ROOT = Path(__file__).parents[1]
GUIDES = ("README.md", "GUIDE.md", "RESULTS.md")

BASES = {"mld_early": "early latent base", "mld": "strong latent base", "mdm": "feature-space base"}
FIGURES = {  # a notebook's main figure
    "00_tour": "tour_reward_by_step",
    "01_gradients": "full/gradient_norms_mld",
    "02_noise": "full/ranking_by_step_mld",
    "03_reward": "full/retrieval_spl_real",
    "04_tuning": "full/methods_mld_early",
    "05_backbones": "full/backbone_cost",
    "06_motion": "full/before_after",
    "11_claims": "does_it_hold",
    "08_own_reward": "own_reward",
    "overlong": "full/reward_hacking_mld_early",
    "preference": "preferences",
    "which_reward": "full/which_reward_mld_early",
    "better_easytune": "full/better_easytune_mld_early",
    "six_backbones": "full/six_backbones",
    "07_cost": "full/quality_memory_r1",
    "theory": "full/theory_mld_early",
    "09_own_model": "bring_your_own_gradients",
}
NETWORKS = {
    "mdm": "MDM-like denoiser in feature space",
    "vae": "VAE of the latent model",
    "mld": "MLD-like latent denoiser",
    "mld_early": "the same, a short run: a weak base",
    "mldpp_vae": "VAE of eight latents, for MLD++",
    "mldpp": "MLD++-like latent denoiser",
    "motionlcm": "MotionLCM, distilled from the MLD-like denoiser",
    "motiondiffuse": "MotionDiffuse-like denoiser in feature space",
    "spm": "reward (SPM), noise on features",
    "spm_latent": "reward, noise on latents",
    "spm_clean": "reward, no noise",
    "judge": "judge",
}


def fill(text: str, root: Path = ROOT) -> str:
    """A guide with each block drawn anew.

    Raises:
        ValueError: A record is missing.
    """
    for name, draw in BLOCKS.items():
        start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        if start in text:
            pattern = re.escape(start) + ".*?" + re.escape(end)
            block = f"{start}\n{draw(root)}\n{end}"
            text = re.sub(pattern, lambda _, new=block: new, text, flags=re.DOTALL)
    return text


def methods(root: Path) -> str:
    """Gain in R@1 and FID of each method on each base, real motion and VAE on top."""
    records = {
        base: longest(root / "runs", "step_finetuning", "seconds", base=base) for base in BASES
    }
    rows = {base: _summary(record) for base, record in records.items()}
    head = ["method", *(f"{title} | FID" for title in BASES.values())]
    lines = [_line(head), "|---|" + "---|---|" * len(BASES)]
    ceilings = {
        base: {r["method"]: r for r in record.tables["ceilings"] if r["split"] == "test"}
        for base, record in records.items()
    }
    for kind, title in (("real", "real motion"), ("VAE", "VAE reconstruction")):
        cells = [
            f"{row['r1']:.3f} [{row['r1_low']:.3f}, {row['r1_high']:.3f}] | {row['fid']:.3f}"
            if (row := ceilings[base].get(kind))
            else "- | -"
            for base in BASES
        ]
        lines.append(_line([f"*{title}*, R@1", *cells]))
    cells = [f"{rows[b]['base']['r1']:.3f} | {rows[b]['base']['fid']:.3f}" for b in BASES]
    lines.append(_line(["*base model*, R@1", *cells]))
    for method in dict.fromkeys(m for found in rows.values() for m in found if m != "base"):
        cells = [
            f"{_gain(row)} | {row['fid']:.3f}" if (row := found.get(method)) else "- | -"
            for found in rows.values()
        ]
        lines.append(_line([method, *cells]))
    links = ", ".join(f"[{r.run_id}](runs/{r.run_id}/record.json)" for r in records.values())
    told = "; ".join(
        f"{BASES[base]}: {r.parameters['seconds']:g} CPU seconds a run, "
        f"{r.parameters['n_steps']} steps, {r.parameters['seeds']} training seeds"
        for base, r in records.items()
    )
    return "\n".join([*lines, "", f"{told}. Records: {links}."])


def refinement(root: Path) -> str:
    """R@1 before and after each way of going on, by set and direction, beside the paper."""
    record = longest(root / "runs", "reward_training_spl", "refine", data="bnr+cmu")
    rows = [row for row in record.tables["recall"] if row["k"] == 1]
    views = list(dict.fromkeys((row["set"], row["direction"]) for row in rows))
    words = {"t2m": "text to motion", "m2t": "motion to text"}
    lines = [_line(["start", "reward", *(f"{name}, {words[way]}" for name, way in views)])]
    lines.append("|---|---|" + "---|" * len(views))
    for start, model in dict.fromkeys((row["trained"], row["model"]) for row in rows):
        cells = []
        for view in views:
            values = [
                100 * row["recall"]
                for row in rows
                if (row["trained"], row["model"]) == (start, model)
                and (row["set"], row["direction"]) == view
            ]
            cells.append(f"{sum(values) / len(values):.1f}")
        lines.append(_line([f"{start} steps", model, *cells]))
    told = f"R@1 in percent, groups of 32, mean of {record.parameters['seeds']} seeds"
    return "\n".join(
        [*lines, "", f"{told}. Record: [{record.run_id}](runs/{record.run_id}/record.json)."]
    )


def questions(root: Path) -> str:
    """Question, notebook, figure and seconds of each notebook, from the notebooks themselves."""
    lines = [_line(["question", "notebook", "figure", "seconds on 2 cores"]), "|---|---|---|---|"]
    for path in sorted((root / "notebooks").rglob("*.ipynb")):
        notebook = read_notebook(path)
        question = str(notebook["cells"][0]["source"]).splitlines()[0].lstrip("# ")
        figure = FIGURES.get(path.stem, "")
        link = f"[{figure.split('/')[-1]}](figures/{figure}.png)" if figure else ""
        seconds = notebook["metadata"].get("easytune", {}).get("seconds", "")
        place = f"[{path.stem}]({path.relative_to(root)})"
        lines.append(_line([question, place, link, str(seconds)]))
    return "\n".join(lines)


def trained(root: Path) -> str:
    """Size, clips seen and seconds of each network, from the records beside the weights."""
    lines = [_line(["network", "size", "sees", "seconds"]), "|---|---|---|---|"]
    for name, title in NETWORKS.items():
        record = json.loads((root / "weights" / f"{name}.json").read_text(encoding="utf-8"))
        metrics = record["metrics"]
        role = "reward" if name.startswith("spm") else "judge" if name == "judge" else "base"
        size = f"{metrics['parameters'] / 1e6:.2f} M"
        seconds = f"{record['machine']['seconds']:.0f}"
        lines.append(_line([title, size, f"{metrics[f'clips_{role}']} clips", seconds]))
    return "\n".join(lines)


BLOCKS: dict[str, Callable[[Path], str]] = {
    "METHODS": methods, "REWARD": refinement, "QUESTIONS": questions, "TRAINED": trained,
}  # fmt: skip


def _summary(record: RunRecord) -> dict[str, dict[str, Any]]:
    """Rows by method; the chain's length is not the same on all bases, so it is not named."""
    whole = {f"DRaFT-{record.parameters['n_steps']}": "DRaFT, whole chain"}
    rows = (row for row in record.tables["summary"] if row["split"] == "test")
    return {whole.get(name := str(row["method"]), name): row for row in rows}


def _gain(row: dict[str, Any]) -> str:
    return f"{row['r1_gain']:+.3f} [{row['r1_gain_low']:+.3f}, {row['r1_gain_high']:+.3f}]"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    for path in (ROOT / name for name in GUIDES):
        path.write_text(fill(path.read_text(encoding="utf-8")), encoding="utf-8")
