"""Each network from a corpus to the file that the bench opens, killed on the way or not."""

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import get_args

import pytest
import torch
from tiny_world import StubEncoder, tiny_corpus

from easytune_lib import recipes, workbench
from easytune_lib.data.corpus import FeatureStats, MotionBatch
from easytune_lib.data.splits import assign_roles
from easytune_lib.metrics.judge import Judge
from easytune_lib.models.mdm import MDM
from easytune_lib.models.mld import VAE, GuidedDenoiser, LatentDenoiser
from easytune_lib.models.motiondiffuse import MotionDiffuse
from easytune_lib.recipes import (
    NEEDS,
    captions_of,
    fresh_reward,
    labelled,
    load_network,
    open_data,
    prepare_evaluation,
    train_base,
    train_judge,
    train_reward,
)
from easytune_lib.records import RunRecord
from easytune_lib.rewards.spm import SPM
from easytune_lib.seeding import stream
from easytune_lib.storage import load_tensors
from easytune_lib.text.cache import CachedEncoder
from easytune_lib.training import TrainingPlan
from easytune_lib.workbench import open_workbench, read_evaluation

pytestmark = pytest.mark.slow

STEPS = 3
RECIPES = {
    "mdm": partial(train_base, "mdm"),
    "vae": partial(train_base, "vae"),
    "mld": partial(train_base, "mld"),
    "mld_early": partial(train_base, "mld_early"),
    "mldpp_vae": partial(train_base, "mldpp_vae"),
    "mldpp": partial(train_base, "mldpp"),
    "motionlcm": partial(train_base, "motionlcm"),
    "motiondiffuse": partial(train_base, "motiondiffuse"),
    "spm": train_reward,
    "judge": train_judge,
}
KINDS = {
    "mdm": MDM, "vae": VAE, "mld": LatentDenoiser, "mld_early": LatentDenoiser,
    "mldpp_vae": VAE, "mldpp": LatentDenoiser, "motionlcm": GuidedDenoiser,
    "motiondiffuse": MotionDiffuse, "spm": SPM, "judge": Judge,
}  # fmt: skip
PARTS = {
    "mdm": set(), "vae": {"reconstruction", "kl"}, "mld": set(), "mld_early": set(),
    "mldpp_vae": {"reconstruction", "kl"}, "mldpp": set(), "motionlcm": set(),
    "motiondiffuse": set(),
    "spm": {"reconstruction", "kl", "latent", "contrastive"}, "judge": {"top1"},
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def tiny() -> Iterator[None]:
    """The tiny corpus, whatever was asked for; small networks; state is kept at every step."""
    corpora = {"tiny": tiny_corpus(), "unlabelled": unlabelled()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipes, "open_data", lambda data, on_problem="raise": corpora[data])
        patch.setattr(recipes, "MiniLM", StubEncoder)
        patch.setattr(workbench, "MiniLM", StubEncoder)
        patch.setattr(recipes, "TrainingPlan", partial(TrainingPlan, save_every=1))
        small = {"Judge": {"embedding": 4, "width": 16}, "SPM": {"dim": 32, "layers": 1},
                 "MDM": {"dim": 32, "layers": 1}, "VAE": {"dim": 32},
                 "LatentDenoiser": {"dim": 32, "layers": 1}}  # fmt: skip
        for name, sizes in small.items():
            patch.setattr(recipes, name, _smaller(getattr(recipes, name), sizes))
        yield


def _smaller(kind, sizes):
    """A class that is built small, unless told otherwise."""

    class Smaller(kind):
        def __init__(self, *given, **options):
            super().__init__(*given, **sizes | options)

    Smaller.__name__ = kind.__name__
    return Smaller


@cache
def unlabelled():
    return replace(tiny_corpus(), clips=tuple(replace(c, label="") for c in tiny_corpus().clips))


def train_all(out: Path, data: str = "tiny"):
    """Each recipe's steps, in an order that their needs allow."""
    return {name: list(recipe(data, out, steps=STEPS)) for name, recipe in RECIPES.items()}


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("weights")
    return out, train_all(out)


def same_file(a: Path, b: Path) -> bool:
    (tensors, config), (others, other_config) = load_tensors(a), load_tensors(b)
    return config == other_config and all(torch.equal(tensors[k], others[k]) for k in tensors)


@pytest.mark.parametrize("name", RECIPES)
def test_weights_and_the_record_that_made_them_are_written(trained, name):
    out, steps = trained
    assert [step.step for step in steps[name]] == [1, 2, 3]
    assert all(step.loss > 0 and step.grad_norm > 0 for step in steps[name])
    assert set(steps[name][0].parts) == PARTS[name], "the terms of the loss"
    record, roles = RunRecord.load(out / f"{name}.json"), assign_roles(tiny_corpus())
    assert record.name == f"train_{name}" and record.parameters["corpus"] == "tiny"
    assert record.parameters["plan"]["steps"] == STEPS
    clips = {role: record.metrics[f"clips_{role}"] for role in vars(roles)}
    assert clips == {role: len(clips) for role, clips in vars(roles).items()}
    assert record.machine.keys() >= {"seconds", "threads"}


@pytest.mark.parametrize("name", RECIPES)
def test_what_was_written_loads_again_at_half_precision(trained, name):
    out, _ = trained
    path = out / f"{name}.safetensors"
    network, (tensors, config) = load_network(KINDS[name], path), load_tensors(path)
    assert not network.training and network.config == config["network"]
    for key, value in network.state_dict().items():
        whole = key in ("mean", "std", "scale")
        assert tensors[key].dtype == (torch.float32 if whole else torch.float16)
        assert torch.equal(value, tensors[key].float())
    size = sum(p.numel() for p in network.parameters())
    assert json.loads((out / f"{name}.json").read_text())["metrics"]["parameters"] == size


@pytest.mark.parametrize("name", ["mdm", "vae", "mldpp_vae", "motiondiffuse", "spm", "judge"])
def test_networks_carry_the_statistics_of_the_train_split(trained, name):
    network = load_network(KINDS[name], trained[0] / f"{name}.safetensors")
    stats = FeatureStats.from_clips(tiny_corpus().split("train"), tiny_corpus().skeleton)
    assert torch.equal(network.mean, stats.mean) and torch.equal(network.std, stats.std)


def test_latents_have_unit_variance(trained):
    vae = load_network(VAE, trained[0] / "vae.safetensors")
    clips = MotionBatch.collate(assign_roles(tiny_corpus()).base, stream(0))
    with torch.no_grad():
        mu, _ = vae.encode(clips.features, clips.mask)
    assert vae.scale != 1 and mu.std().item() == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize("name", RECIPES)
def test_killed_and_resumed_equals_unbroken(trained, name, tmp_path):
    out, steps = trained
    for needed in NEEDS.get(name, ()):
        (tmp_path / f"{needed}.safetensors").symlink_to(out / f"{needed}.safetensors")
    run = RECIPES[name]("tiny", tmp_path, steps=STEPS)
    first = list(islice(run, 2))
    run.close()
    assert not (tmp_path / f"{name}.safetensors").exists()
    rest = list(RECIPES[name]("tiny", tmp_path, steps=STEPS))
    assert [step.step for step in first + rest] == [1, 2, 3]
    assert [step.loss for step in first + rest] == [step.loss for step in steps[name]]
    assert same_file(tmp_path / f"{name}.safetensors", out / f"{name}.safetensors")
    records = [RunRecord.load(folder / f"{name}.json") for folder in (out, tmp_path)]
    assert records[0].parameters == records[1].parameters
    assert records[0].metrics == records[1].metrics


def test_the_global_generator_has_no_influence_and_the_seed_has(trained, tmp_path):
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    list(train_base("mdm", "tiny", tmp_path / "same", steps=STEPS))
    assert torch.equal(before, torch.random.get_rng_state())
    assert same_file(tmp_path / "same" / "mdm.safetensors", trained[0] / "mdm.safetensors")
    list(train_base("mdm", "tiny", tmp_path / "other", seed=1, steps=STEPS))
    assert not same_file(tmp_path / "other" / "mdm.safetensors", trained[0] / "mdm.safetensors")


def test_state_of_other_settings_is_refused(tmp_path):
    next(train_base("mdm", "tiny", tmp_path, steps=STEPS))
    with pytest.raises(ValueError, match="was written by another plan"):
        next(train_base("mdm", "tiny", tmp_path, steps=STEPS + 1))


@pytest.mark.parametrize("other", [{"buckets": 2}, {"precision": "bf16"}])
def test_a_reward_does_not_go_on_with_other_batches_or_digits(trained, tmp_path, other):
    plan = RunRecord.load(trained[0] / "spm.json").parameters["plan"]
    assert (plan["buckets"], plan["precision"]) == (1, "float32")
    run = train_reward("tiny", tmp_path, steps=STEPS)
    next(run)
    run.close()
    with pytest.raises(ValueError, match="was written by another plan"):
        next(train_reward("tiny", tmp_path, steps=STEPS, **other))
    list(train_reward("tiny", tmp_path / "other", steps=1, **other))
    plan = RunRecord.load(tmp_path / "other" / "spm.json").parameters["plan"]
    assert {name: plan[name] for name in other} == other


def test_mld_needs_a_vae(tmp_path):
    with pytest.raises(ValueError, match=r"vae\.safetensors is not a readable"):
        next(train_base("mld", "tiny", tmp_path, steps=STEPS))


def test_a_file_of_another_network_is_refused(trained):
    out, _ = trained
    with pytest.raises(ValueError, match=r"mld\.safetensors holds no MDM: .*latent"):
        load_network(MDM, out / "mld.safetensors")
    with pytest.raises(ValueError, match=r"training/mdm\.safetensors says nothing of a network"):
        load_network(MDM, out / "training" / "mdm.safetensors")


@pytest.fixture(scope="module")
def written(trained) -> Path:
    prepare_evaluation("tiny", trained[0])
    return trained[0]


class TestEvaluation:
    def test_the_bench_reads_the_prompts_of_the_roles(self, written):
        prompts, ceilings = read_evaluation(written, CachedEncoder(StubEncoder()))
        roles = assign_roles(tiny_corpus())
        assert set(prompts) == {"finetune", "validation", "test", "unseen"}
        for name in ("validation", "test", "unseen"):
            clips, asked = getattr(roles, name), prompts[name]
            assert asked.labels == tuple(clip.label for clip in clips)
            assert asked.prompts.lengths.tolist() == [len(clip) // 4 * 4 for clip in clips]
            for text, clip in zip(asked.prompts.texts, clips, strict=True):
                assert text in {caption.text for caption in clip.captions}
            assert len(ceilings["real"][name]) == len(ceilings["VAE"][name]) == len(clips)

    def test_fine_tuning_is_asked_what_the_base_was_trained_on(self, written):
        prompts, _ = read_evaluation(written, CachedEncoder(StubEncoder()))
        said = {text for clip in assign_roles(tiny_corpus()).base for text in captions_of([clip])}
        asked = prompts["finetune"]
        assert len(asked) == 1024 and set(asked.prompts.texts) <= said
        assert not set(asked.labels) & set(prompts["unseen"].labels)

    def test_references_are_the_real_motions_as_the_judge_sees_them(self, written):
        bench = open_workbench("mdm", n_steps=2, weights=written)
        judge = load_network(Judge, written / "judge.safetensors")
        clips = MotionBatch.collate(assign_roles(tiny_corpus()).test, stream(0), crop="start")
        with torch.no_grad():
            embeddings = judge.embed_motion(clips.features, clips.lengths)
        torch.testing.assert_close(
            bench.references["test"].mean, embeddings.double().mean(0), atol=1e-5, rtol=1e-4
        )
        tensors, _ = load_tensors(written / "evaluation.safetensors")
        torch.testing.assert_close(tensors["test.real"], embeddings, atol=1e-5, rtol=1e-4)
        assert tensors["test.vae"].shape == tensors["test.real"].shape

    def test_repeats_exactly_and_does_without_a_vae(self, written, tmp_path):
        (tmp_path / "judge.safetensors").symlink_to(written / "judge.safetensors")
        path = prepare_evaluation("tiny", tmp_path)
        (tensors, config), (other, other_config) = map(
            load_tensors, (path, written / "evaluation.safetensors")
        )
        assert config == other_config
        assert other.keys() - tensors.keys() == {"validation.vae", "test.vae", "unseen.vae"}
        assert all(torch.equal(tensors[name], other[name]) for name in tensors)

    def test_without_labels_the_splits_are_asked_and_judged(self, trained, tmp_path):
        for name in ("mdm", "spm", "judge"):
            (tmp_path / f"{name}.safetensors").symlink_to(trained[0] / f"{name}.safetensors")
        prepare_evaluation("unlabelled", tmp_path)
        bench = open_workbench("mdm", n_steps=2, weights=tmp_path)
        assert set(bench.prompts) == {"finetune", "validation", "test"}
        assert len(bench.prompts["validation"]) == len(tiny_corpus().split("val"))
        assert set(bench.prompts["test"].labels) == {""}
        (found,) = workbench.evaluate(bench, bench.model, "test", [0])
        assert 0 <= found["r1"] <= 1

    def test_a_judge_is_needed(self, tmp_path):
        with pytest.raises(ValueError, match=r"judge\.safetensors is not a readable"):
            prepare_evaluation("tiny", tmp_path)

    @pytest.mark.parametrize("base", get_args(workbench.Base))
    def test_what_recipes_write_the_bench_opens(self, written, base):
        bench = open_workbench(base, n_steps=2, weights=written)
        (found,) = workbench.evaluate(bench, bench.model, "validation", [0])
        assert all(value == value for value in found.values())
        assert bench.digest == workbench.weights_digest(base, written)


def test_labelled_clips_alone_where_there_are_some():
    clips = tiny_corpus().clips
    mixed = replace(tiny_corpus(), clips=(*clips[:5], *(replace(c, label="") for c in clips[5:])))
    assert labelled(mixed).clips == clips[:5]
    assert labelled(unlabelled()).clips == unlabelled().clips


def test_all_captions_and_the_empty_one():
    clips = tiny_corpus().clips[:2]
    said = captions_of(clips)
    assert said[0] == "" and len(said) == 5
    assert set(said[1:]) == {caption.text for clip in clips for caption in clip.captions}


def test_a_fresh_reward_depends_on_its_seed_alone():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, two, other = (fresh_reward(tiny_corpus(), seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["position"], other["position"])


def test_a_reward_for_latents_is_trained_on_decoded_noise(trained, tmp_path):
    """Half the motions are clean; the others are what the VAE makes of a noised latent."""
    with pytest.raises(ValueError, match=r"vae\.safetensors is not a readable"):
        next(train_reward("tiny", tmp_path, steps=1, noise="latent"))
    (tmp_path / "vae.safetensors").symlink_to(trained[0] / "vae.safetensors")
    for noise, name in (("latent", "spm_latent"), ("clean", "spm_clean")):
        list(train_reward("tiny", tmp_path, steps=2, noise=noise))
        told = load_network(SPM, tmp_path / f"{name}.safetensors").config["time_token"]
        assert told == ("none" if noise == "clean" else "motion")


class TestOpenData:
    def test_the_synthetic_corpus_is_as_large_as_asked(self):
        corpus = open_data("synthetic", clips=12)
        assert corpus.name == "synthetic" and len(corpus) == 12

    def test_a_folder_that_is_not_there(self, tmp_path):
        with pytest.raises(ValueError, match="nowhere"):
            open_data(str(tmp_path / "nowhere"))
