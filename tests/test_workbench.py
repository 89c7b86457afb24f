"""The bench: the laptop's own weights, asked and judged alike for every model."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from tiny_world import StubEncoder, tiny_bench

from easytune_lib import workbench
from easytune_lib.diffusion.model import MotionDiffusion
from easytune_lib.diffusion.rollout import sample
from easytune_lib.metrics import report
from easytune_lib.metrics.report import score
from easytune_lib.motion.features import to_joints
from easytune_lib.motion.skeleton import HUMANML3D
from easytune_lib.seeding import stream
from easytune_lib.storage import save_tensors
from easytune_lib.workbench import (
    WEIGHTS,
    PromptSet,
    Workbench,
    evaluate,
    evaluate_motion,
    make_prompts,
    motions_of,
    open_workbench,
    read_evaluation,
    upper_bound,
    weights_digest,
)

pytestmark = pytest.mark.slow

ENOUGH = 65  # prompts for FID of 64 dimensions


@pytest.fixture(scope="module", autouse=True)
def stub_encoder() -> Iterator[None]:
    """Captions need mean nothing here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workbench, "MiniLM", StubEncoder)
        yield


@pytest.fixture(scope="module")
def benches(stub_encoder) -> dict[str, Workbench]:
    return {base: open_workbench(base, n_steps=2) for base in ("mdm", "mld")}


@pytest.fixture(scope="module", params=["mdm", "mld"])
def bench(request, benches) -> Workbench:
    return benches[request.param]


@pytest.fixture
def other() -> MotionDiffusion:
    """Another model for the bench of the laptop's MDM: other weights, the same world."""
    return tiny_bench().model


def test_networks_are_ready_to_sample_to_judge_and_to_be_tuned(bench):
    networks = (bench.model.denoiser, bench.reward.model, bench.judge)
    assert bench.model.n_steps == 2 and bench.digest == weights_digest(bench.base)
    assert not any(network.training for network in networks)
    assert all(p.dtype == torch.float32 for network in networks for p in network.parameters())
    assert not any(p.requires_grad for p in bench.reward.model.parameters())
    motion = sample(bench.model, make_prompts(["walk", "run"], [1.0, 2.0]), stream(0))
    assert motion.shape == (2, 40, 263) and motion.isfinite().all()


def test_prompts_and_references_belong_together(bench):
    assert set(bench.prompts) == {"finetune", "validation", "test", "unseen"}
    for name, asked in bench.prompts.items():
        lengths = asked.prompts.lengths
        assert len(asked) == len(asked.labels) == len(lengths) and all(asked.labels)
        assert (lengths % 4 == 0).all() and lengths.min() >= 4 and lengths.max() <= 128
        if name != "finetune":
            assert bench.references[name].count == len(asked)
    seen, unseen = bench.prompts["finetune"].labels, bench.prompts["unseen"].labels
    assert not set(seen) & set(unseen)


@pytest.mark.parametrize(("base", "default"), [("mdm", 2.5), ("mld", 5.0)])
def test_guidance_is_what_was_asked_also_none_at_all(benches, base, default):
    assert benches[base].model.guidance == default
    assert open_workbench(base, 2, guidance=0.0).model.guidance == 0.0


def test_a_spread_of_prompts():
    whole = PromptSet(make_prompts([f"prompt {i}" for i in range(10)]), tuple("abcdefghij"))
    assert whole.first(0) is whole and whole.first(10) is whole and whole.first(99) is whole
    part = whole.first(4)
    assert part.labels == ("a", "d", "g", "j") and len(part) == 4
    assert part.prompts.texts == ("prompt 0", "prompt 3", "prompt 6", "prompt 9")
    assert whole.first(1).labels == ("a",)


class TestAsk:
    def test_lengths_are_rounded_to_four_frames(self):
        asked = make_prompts(["a"] * 5, [1.0, 1.09, 1.11, 6.31, 6.4])
        assert asked.lengths.tolist() == [20, 20, 24, 128, 128]
        assert make_prompts(["a", "b"]).lengths.tolist() == [100, 100], "5 s where nothing is said"
        assert make_prompts(["a", "b"], 2.0).lengths.tolist() == [40, 40]

    def test_captions_are_kept_in_order(self):
        asked = make_prompts(["walk", "run", "walk"])
        assert asked.texts == ("walk", "run", "walk")
        assert torch.equal(asked.text.sentence, StubEncoder().encode(asked.texts).sentence)

    @pytest.mark.parametrize("seconds", [0.9, 6.5, -3.0, float("nan"), float("inf"), [2.0, 7.0]])
    def test_lengths_out_of_range_are_refused(self, seconds):
        with pytest.raises(ValueError, match=r"motions are 1 to 6\.4 s long, got \["):
            make_prompts(["walk", "run"], seconds)

    def test_as_many_lengths_as_captions(self):
        with pytest.raises(ValueError, match="2 captions need as many lengths, got 3"):
            make_prompts(["walk", "run"], [2.0, 3.0, 4.0])

    @pytest.mark.parametrize("texts", [[], "walk"])
    def test_no_captions_or_a_lone_string(self, texts):
        with pytest.raises(ValueError, match="expected a list of"):
            make_prompts(texts)


def test_motions_are_cut_to_their_length_and_carry_their_caption(benches):
    bench = benches["mdm"]
    asked = make_prompts(["walk", "run"], [1.0, 2.0])
    features = sample(bench.model, asked, stream(0))
    short, long = motions_of(features, asked)
    assert (len(short.joints), len(long.joints)) == (20, 40)
    assert (short.text, long.text) == ("walk", "run") and short.fps == 20
    joints = to_joints(features[:1, :20], HUMANML3D)[0]
    torch.testing.assert_close(torch.as_tensor(short.joints), joints)


class TestJudged:
    def test_repeats_exactly_and_leaves_the_global_generator_alone(self, bench):
        torch.manual_seed(1)
        before = torch.random.get_rng_state()
        first, second = evaluate(bench, bench.model, "validation", [0, 1], ENOUGH)
        assert torch.equal(before, torch.random.get_rng_state())
        torch.manual_seed(2)
        (again,) = evaluate(bench, bench.model, "validation", [1], ENOUGH)
        assert again.items() <= second.items()
        assert (first["noise_seed"], second["noise_seed"]) == (0, 1)
        assert first["fid"] != second["fid"] and first["mmodality"] == second["mmodality"] > 0
        assert 0 <= first["r1"] <= first["r2"] <= first["r3"] <= 1 and first["fid"] > 0

    def test_every_model_is_given_the_same_noise(self, benches, other, monkeypatch):
        bench, drawn = tiny_bench(), []
        draw = MotionDiffusion.draw_noise

        def spy(model, prompts, rng):
            drawn.append(draw(model, prompts, rng))
            return drawn[-1]

        monkeypatch.setattr(MotionDiffusion, "draw_noise", spy)
        with torch.no_grad():
            for weight in other.denoiser.parameters():
                weight.mul_(1.5)
        for model, split, seed in (
            (bench.model, "test", 0), (other, "test", 0), (other, "test", 1),
            (other, "validation", 0),
        ):  # fmt: skip
            evaluate(bench, model, split, [seed])
        assert torch.equal(drawn[0], drawn[1])
        assert not torch.equal(drawn[1], drawn[2]) and not torch.equal(drawn[1], drawn[3])

    def test_the_mean_reward_stands_beside_the_judge(self):
        bench = tiny_bench()
        chosen = bench.prompts["test"]
        motion = sample(bench.model, chosen.prompts, stream(3, "evaluate", "test"))
        (got,) = evaluate(bench, bench.model, "test", [3])
        assert got == {"noise_seed": 3} | evaluate_motion(bench, motion, chosen, "test", 3)
        assert got["reward"] == pytest.approx(bench.reward(motion, chosen.prompts).mean().item())

    def test_prompts_without_labels_are_told_apart_by_caption(self):
        bench = tiny_bench()
        chosen = bench.prompts["test"]
        unknown = replace(chosen, labels=("",) * len(chosen))
        motion = sample(bench.model, chosen.prompts, stream(0))
        got = evaluate_motion(bench, motion, unknown, "test", 0)
        want = report.evaluate(
            bench.judge, motion, chosen.prompts, chosen.prompts.texts, bench.references["test"],
            stream(0, "judge", "test"), group_size=len(chosen),
        )  # fmt: skip
        assert {name: got[name] for name in vars(want)} == vars(want)

    @pytest.mark.parametrize("split", ["train", "finetune"])
    def test_a_split_that_can_not_be_judged_is_refused(self, split):
        bench = tiny_bench()
        message = rf"no split '{split}' to be judged on; there are \['validation', 'test'\]"
        with pytest.raises(ValueError, match=message):
            evaluate(bench, bench.model, split, [0])

    def test_too_few_prompts_for_fid_are_refused(self, benches):
        bench = benches["mdm"]
        with pytest.raises(ValueError, match="needs at least 65 motions, got 64"):
            evaluate(bench, bench.model, "test", [0], ENOUGH - 1)


class TestCeiling:
    def test_real_motion_is_its_own_reference_and_the_vae_s_is_near_it(self, benches):
        bench = benches["mdm"]
        real, rebuilt = (upper_bound(bench, kind, "test") for kind in ("real", "VAE"))
        assert abs(real["fid"]) < 1e-4 < rebuilt["fid"] < 0.2
        assert real["jerk"] is None, "there is no motion, only how it looks to the judge"
        for row in (real, rebuilt):
            assert row["r1_low"] < row["r1"] < row["r1_high"] <= 1
            assert row["mm_dist_low"] < row["mm_dist"] < row["mm_dist_high"]

    def test_it_is_asked_for_the_prompts_and_groups_of_the_models(self):
        bench = tiny_bench()
        chosen = bench.prompts["test"].first(6)
        real = bench.upper_bounds["real"]["test"][bench.prompts["test"].spread(6)]
        want = score(
            bench.judge.embed_text(chosen.prompts.texts), real, chosen.labels,
            bench.references["test"], stream(0, "judge", "test"), group_size=6,
        )  # fmt: skip
        got = upper_bound(bench, "real", "test", 6)
        assert {name: got[name] for name in vars(want)} == vars(want)

    def test_what_was_never_embedded_is_refused(self):
        with pytest.raises(ValueError, match="no 'VAE' motion of 'unseen'; write it by"):
            upper_bound(tiny_bench(), "VAE", "unseen")


class TestFiles:
    FILES = (
        "mdm", "vae", "mld", "mld_early", "mldpp_vae", "mldpp", "motionlcm", "motiondiffuse",
        "spm", "judge", "evaluation",
    )  # fmt: skip

    @pytest.fixture
    def folder(self, tmp_path):
        for name in self.FILES:
            (tmp_path / f"{name}.safetensors").write_text(name)
        return tmp_path

    @pytest.mark.parametrize(
        ("base", "own"),
        [
            ("mdm", {"mdm"}), ("mld", {"vae", "mld"}), ("mld_early", {"vae", "mld_early"}),
            ("mldpp", {"mldpp_vae", "mldpp"}), ("motionlcm", {"vae", "motionlcm"}),
            ("motiondiffuse", {"motiondiffuse"}),
        ],
    )  # fmt: skip
    def test_the_digest_is_of_all_files_that_results_depend_on(self, folder, base, own):
        digest = weights_digest(base, folder)
        assert len(digest) == 12 and int(digest, 16) >= 0
        assert digest == weights_digest(base, folder)
        for name in self.FILES:
            path = folder / f"{name}.safetensors"
            path.write_text("changed")
            changes = name in own | {"spm", "judge", "evaluation"}
            assert (weights_digest(base, folder) != digest) == changes, name
            path.write_text(name)

    def test_missing_files_are_named_with_what_writes_them(self, folder):
        for name in ("vae", "spm"):
            (folder / f"{name}.safetensors").unlink()
        with pytest.raises(ValueError) as caught:
            weights_digest("mld", folder)
        said = str(caught.value)
        assert f"missing {folder / 'vae.safetensors'}, {folder / 'spm.safetensors'}" in said
        assert f"--out {folder}" in said and "judge" not in said
        assert "`easytune train base --base mld`, `easytune train reward`" in said
        with pytest.raises(ValueError, match=r"missing \S+spm\.safetensors: give"):
            weights_digest("mdm", folder)

    def test_a_folder_that_is_not_there(self, tmp_path):
        nowhere = tmp_path / "nowhere"
        with pytest.raises(ValueError, match=r"missing \S+mdm\.safetensors.*easytune train base`"):
            open_workbench("mdm", weights=nowhere)

    def test_the_digests_that_records_name_stay(self):
        """Records are found by them; another digest would orphan all that was measured."""
        assert weights_digest("mld") == "10e048f09a4b"
        assert weights_digest("mld_early") == "cdc718730bd2"

    def test_an_unknown_base_is_refused(self):
        with pytest.raises(ValueError, match=r"base is one of mdm, mld, .*, got 'mdx'"):
            weights_digest("mdx")

    def test_a_file_in_the_place_of_another_is_refused(self, tmp_path):
        for path in WEIGHTS.glob("*.safetensors"):
            (tmp_path / path.name).symlink_to(path)
        (tmp_path / "mdm.safetensors").unlink()
        (tmp_path / "mdm.safetensors").symlink_to(WEIGHTS / "mld.safetensors")
        with pytest.raises(ValueError, match=r"mdm\.safetensors holds no MDM: .*latent"):
            open_workbench("mdm", weights=tmp_path)
        save_tensors(tmp_path / "evaluation.safetensors", {}, {"network": {}})
        with pytest.raises(ValueError, match=r"evaluation\.safetensors holds no prompts"):
            read_evaluation(tmp_path, workbench.CachedEncoder(StubEncoder()))
