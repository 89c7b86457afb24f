import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_world import StubEncoder, tiny_bench
from viz_walking import walking

from easytune_lib.extras.widgets import cockpit as cockpit_module
from easytune_lib.extras.widgets.cockpit import Cockpit
from easytune_lib.extras.widgets.gradients import METHODS, GradientExplorer
from easytune_lib.extras.widgets.kept import keep_motions, kept_motions
from easytune_lib.extras.widgets.noise import EVERY, NoiseExplorer
from easytune_lib.extras.widgets.run import Settings
from easytune_lib.extras.widgets.run_table import RunTable
from easytune_lib.extras.widgets.scrubber import Scrubber
from easytune_lib.models.mld import VAE, LatentDenoiser, mld
from easytune_lib.motion.skeleton import KIT
from easytune_lib.records import RunRecord
from easytune_lib.types import Prompts
from easytune_lib.viz.style import method_style


def one(text: str = "test 0") -> Prompts:
    return Prompts(StubEncoder().encode([text]), torch.tensor([20]))


def test_the_scrubber_knows_each_step():
    scrubber = Scrubber(tiny_bench(4), one())
    assert set(scrubber.views) == {f'["{i}"]' for i in range(1, 5)}
    assert scrubber.set(step=2)["mark"] == 2
    assert [t["name"] for t in scrubber.shown["motions"]["tracks"]] == [
        "the state x_t", "the clean estimate x0_hat",
    ]  # fmt: skip
    assert all(sum(shares) == pytest.approx(100) for shares in scrubber.shares.values())
    with pytest.raises(ValueError, match="one caption, got 2"):
        Scrubber(tiny_bench(), Prompts(StubEncoder().encode(["a", "b"]), torch.tensor([20, 20])))


@pytest.fixture(scope="module")
def gradients() -> GradientExplorer:
    bench = tiny_bench()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = VAE(dim=8, layers=1, latent_dim=6, max_frames=32)
        denoiser = LatentDenoiser(dim=8, layers=1, latent_dim=6)
    model = mld(vae, denoiser.eval(), StubEncoder().encode([""]))
    return GradientExplorer(replace(bench, model=model), one(), (1.0, 2.0), (2, 3))


def test_gradient_shares_follow_from_the_kept_trajectory(gradients):
    for method in METHODS:
        for k in (1, 2):
            charts = gradients.set(method=method, k=k, steps=3)["charts"]
            shares = charts[-1]["series"][0]["y"]
            assert sum(share > 0 for share in shares) <= k or method == "AlignProp"
    assert len(gradients._cache) == 1


def test_a_look_up_equals_what_is_computed_anew(gradients):
    from easytune_lib.analysis.gradients import share_norms
    from easytune_lib.finetuning.methods import DRaFT
    from easytune_lib.seeding import stream

    kept = gradients.trajectory(*(gradients.values[name] for name in ("guidance", "steps")))
    n = kept.model.n_steps
    plan = DRaFT(2).plan(n, stream(0, "plan"))
    reward = gradients._bench.reward
    anew = share_norms(kept.model, reward, kept.x_T, gradients._prompts, plan).norms
    assert torch.allclose(anew, gradients._shares(kept, "DRaFT", 2, n), rtol=1e-4)


def test_another_trajectory_and_what_is_kept(gradients):
    before = gradients.values
    gradients.keep(method=["DRaFT"], k=["1", "2"], steps=["2"])
    assert gradients.values == before
    assert '["DRaFT","2","1.0","2"]' in gradients._known
    with pytest.raises(ValueError, match="at most 1024 numbers, this one has 5260"):
        GradientExplorer(tiny_bench(), one())


def test_ranks_and_similarity_by_prompt():
    bench = tiny_bench(3)
    explorer = NoiseExplorer(bench, bench.prompts["test"])
    count = len(bench.prompts["test"])
    ranks = explorer.ranks["features"]["x0_hat"]
    assert ranks.shape == (3, count) and ranks.min() >= 1 and ranks.max() <= count
    assert torch.allclose(explorer.similarity["features"]["x0_hat"][-1], torch.ones(count))
    shown = explorer.set(prompt="test 3")
    assert shown["charts"][1]["series"][1]["y"] == [float(v) for v in ranks[:, 3]]
    assert len(explorer.views) == count + 1 and explorer.set(prompt=EVERY) != shown


@pytest.fixture
def cockpit(monkeypatch, tmp_path) -> Cockpit:
    monkeypatch.setattr(cockpit_module, "make_prompts", lambda texts, seconds: one(texts[0]))
    settings = Settings(batch_size=2, held_out=3)
    return Cockpit(tiny_bench(5), "wave", 1.0, 4, 2, tmp_path / "cockpit", settings)


def off(cockpit: Cockpit) -> set[str]:
    return {c["name"] for c in cockpit.controls if c.get("off")}


def test_a_run_by_hand(cockpit):
    assert off(cockpit) == {"pause", "resume", "stop", "save"}
    cockpit.press("start")
    cockpit.wait(60.0)
    assert off(cockpit) == {"pause", "resume", "stop"}
    assert "is done · update 4 of 4" in cockpit.view["note"]
    assert cockpit.values["shown"] == "4"
    assert len(cockpit.base["player"]["tracks"]) == 2
    cockpit.set(method="ReFL")
    cockpit.start()
    cockpit.wait(60.0)
    names = [track["name"] for track in cockpit.base["player"]["tracks"]]
    assert names == ["before", "run 1: EasyTune, random step, lr 0.0002", "run 2: ReFL, lr 0.0002"]
    assert [len(c["series"]) for c in cockpit.view["charts"]] == [2, 2, 4]
    own = [method_style(name)["color"] for name in ("EasyTune", "ReFL")]
    for chart in cockpit.view["charts"][:2]:
        assert [series["color"] for series in chart["series"]] == own
    assert [t["color"].upper() for t in cockpit.base["player"]["tracks"]][1:] == own
    cockpit.set(shown=0)
    spec = re.search(r"panel\(.*?'player'\), (.*)\);</script>", cockpit.page())
    assert len(json.loads(spec[1])["views"]) == 3  # the samples' slider works without a kernel


def test_what_is_saved_can_be_found_again(cockpit):
    cockpit.press("save")
    assert "not there: one that is done" in cockpit.view["note"]
    cockpit.start()
    cockpit.wait(60.0)
    place = cockpit.save()
    assert {path.suffix for path in place.iterdir()} >= {".json", ".npz", ".safetensors", ".html"}
    assert list(kept_motions(place)) == ["base", "tuned"]
    table = RunTable([cockpit.folder])
    shown = table.choose(*table.places)
    assert len(shown["player"]["tracks"]) == 2
    titles = {curve["title"] for curves in shown["curves"].values() for curve in curves}
    assert {"reward", "grad_norm", "samples: judge by update"} <= titles


def test_a_failed_run_says_why(cockpit, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("out of memory")

    monkeypatch.setattr("easytune_lib.extras.widgets.run.finetune", broken)
    cockpit.press("start")
    cockpit.wait(60.0)
    assert cockpit.view["failed"] and "RuntimeError: out of memory" in cockpit.view["note"]
    cockpit.set(caption="  ")
    cockpit.press("start")
    assert len(cockpit.runs) == 1


def test_motions_come_back(tmp_path):
    motions = {"a": walking(5), "b, ünd": walking(7, KIT)}
    keep_motions(tmp_path, motions)
    back = kept_motions(tmp_path)
    assert list(back) == list(motions)
    for name, motion in back.items():
        assert np.array_equal(motion.joints, motions[name].joints)
        assert (motion.fps, motion.skeleton, motion.text) == (
            motions[name].fps, motions[name].skeleton, motions[name].text,
        )  # fmt: skip
    (tmp_path / "motions.npz").write_bytes(b"no")
    with pytest.raises(ValueError, match="does not hold motions"):
        kept_motions(tmp_path)


def test_the_table_lists_all_and_names_what_it_cannot_read(tmp_path):
    evil = "<script>alert(1)</script>"
    record = RunRecord(
        "walk", {"base": evil, "seed": 3}, {"r1": 0.5}, {"reward": [1.0, 2.0]},
        {"pace": [{"method": "A", "updates": i, "score": 2.0 * i} for i in range(4)],
         "curves": [{"method": "B", "reward": [1.0, 2.0, 3.0]}]},
    )  # fmt: skip
    record.save(tmp_path)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "record.json").write_text("{")
    table = RunTable([tmp_path])
    rows = {row[0].split("/")[-1]: row for row in table.base["table"]["rows"]}
    assert rows["bad"][1] == "unreadable" and rows[record.run_id][5] == "r1 0.5"
    curves = table.base["curves"][f"{tmp_path.name}/{record.run_id}"]
    assert [(c["title"], c["name"]) for c in curves] == [
        ("reward", ""), ("curves: reward", "B"), ("pace: score by updates", "A"),
    ]  # fmt: skip
    assert "<script>alert" not in table.page() and "\\u003cscript" in table.page()
    with pytest.raises(ValueError, match="no run nothing"):
        table.choose("nothing")
