import pickle

import numpy as np
import pytest
import torch
from official import arrays, fill, manifest, reference
from safetensors.torch import save_file

from easytune_lib.data.corpus import Caption, Clip, FeatureStats
from easytune_lib.extras.t2m_evaluator import IMPORTANT, OTHER, POS, T2MEvaluator, TaggedWords
from easytune_lib.metrics.judge import Judge
from easytune_lib.metrics.report import Reference, embed_motions, evaluate
from easytune_lib.types import Prompts, TextFeatures

pytestmark = pytest.mark.slow

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
PUBLISHED = {"movement": 24, "motion_hidden": 40, "text_hidden": 32, "embedding": 32}
TINY = {"movement": 8, "motion_hidden": 6, "text_hidden": 5, "embedding": 7, "word_dim": 4}
VOCABULARY = ("unk", "sos", "eos", "a", "person", "walk", "forward", "bow")


@pytest.fixture(scope="module")
def io():
    return arrays(reference("t2m_evaluator") / "small_io.npz")


def tiny(features=263, feat_bias=1.0, words=None, **sizes) -> T2MEvaluator:
    """Another size than the reference, and units that are not normalised."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        judge = T2MEvaluator(
            [0.5] * features, [2.0] * features, feat_bias=feat_bias, words=words, **(TINY | sizes)
        )
    return judge.eval()


def words(clips=()) -> TaggedWords:
    rng = np.random.default_rng(0)
    table = rng.normal(size=(len(VOCABULARY), 4)).astype(np.float32)
    tokens = {c.text: c.tokens for clip in clips for c in clip.captions}
    return TaggedWords({word: i for i, word in enumerate(VOCABULARY)}, table, tokens)


def motions(lengths, features=263):
    rng = torch.Generator().manual_seed(0)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    motion = torch.randn(len(lengths), max(lengths), features, generator=rng)
    return motion * mask[..., None], torch.tensor(lengths), mask


class TestParity:
    """Against outputs of the released classes, whose rows are in another order."""

    @torch.no_grad()
    def test_motions_in_the_order_given(self, io):
        judge = fill(T2MEvaluator([0.0] * 263, [1.0] * 263, feat_bias=1.0, **PUBLISHED))
        found = judge.embed_motion(io["motions"], io["m_lens"])
        official = io["motion_embedding_official_order"]
        torch.testing.assert_close(found[io["align_idx"]], official, **CLOSE)
        movements = judge.movement_encoder(io["motions"][:1, :, :-4])
        torch.testing.assert_close(movements[0], io["movement_first"], **CLOSE)

    @torch.no_grad()
    def test_captions_in_any_order(self, io):
        judge = fill(T2MEvaluator([0.0] * 263, [1.0] * 263, feat_bias=1.0, **PUBLISHED))
        official = torch.empty_like(io["text_embedding_official_order"])
        official[io["align_idx"]] = io["text_embedding_official_order"]
        vectors, lengths, pos = io["word_embs"], io["cap_lens"], io["pos_index"]
        for order in (torch.arange(6), torch.tensor([3, 5, 0, 2, 1, 4])):
            found = judge.embed_words(vectors[order], lengths[order], pos[order])
            torch.testing.assert_close(found, official[order], **CLOSE)

    @torch.no_grad()
    @pytest.mark.parametrize("bias", [25.0, 1.0])
    def test_motions_are_given_in_physical_units(self, io, bias):
        """Root and contacts of the evaluator's own standard deviations are divided already."""
        mean, std = torch.linspace(-1, 1, 263), torch.linspace(0.5, 2, 263)
        own = std.clone()
        own[:4] /= 25
        own[-4:] /= 25
        given = std if bias == 25 else own
        judge = T2MEvaluator(mean.tolist(), given.tolist(), feat_bias=bias, **PUBLISHED)
        found = fill(judge).embed_motion(io["motions"] * own + mean, io["m_lens"])
        official = io["motion_embedding_official_order"]
        torch.testing.assert_close(found[io["align_idx"]], official, rtol=1e-4, atol=1e-4)


class TestLayout:
    @pytest.mark.parametrize(("features", "name"), [(263, "full"), (251, "full_kit")])
    def test_keys_and_shapes_are_the_official_ones(self, features, name):
        full = manifest(reference("t2m_evaluator") / f"manifest_{name}.json")
        with torch.device("meta"):
            judge = T2MEvaluator([0.0] * features, [1.0] * features, feat_bias=25.0)
        assert {k: tuple(v.shape) for k, v in judge.state_dict().items()} == full
        assert judge.skeleton.n_features == features

    def test_an_official_file_loads(self, io):
        stats = FeatureStats(torch.zeros(263), torch.ones(263))
        path = reference("t2m_evaluator") / "small_finest.tar"
        judge = T2MEvaluator.official(path, stats, feat_bias=1.0, **PUBLISHED)
        assert isinstance(judge, Judge) and not judge.training
        with torch.no_grad():
            found = judge.embed_motion(io["motions"], io["m_lens"])[io["align_idx"]]
        torch.testing.assert_close(found, io["motion_embedding_official_order"], **CLOSE)

    def test_one_inside_a_generator_is_found(self, tmp_path):
        judge, names = tiny(), {"movement_encoder": "t2m_moveencoder"}
        names |= {"motion_encoder": "t2m_motionencoder", "text_encoder": "t2m_textencoder"}
        inside = {"vae.weight": torch.ones(2)}
        for name, tensor in judge.state_dict().items():
            start, rest = name.split(".", 1)
            inside[f"{names[start]}.{rest}"] = tensor
        torch.save({"state_dict": inside}, tmp_path / "mld.ckpt")
        stats = FeatureStats(torch.zeros(263), torch.ones(263))
        found = T2MEvaluator.official(tmp_path / "mld.ckpt", stats, feat_bias=1.0, **TINY)
        for name, tensor in judge.state_dict().items():
            assert torch.equal(found.state_dict()[name], tensor)

    def test_files_that_do_not_fit_say_why(self, tmp_path):
        content = {k: v.clone() for k, v in tiny().state_dict().items()}
        save_file(content, tmp_path / "x.safetensors")
        kit = FeatureStats(torch.zeros(251), torch.ones(251))
        with pytest.raises(
            ValueError, match=r"main.0.weight: \(8, 259, 4\) instead of \(8, 247, 4"
        ):
            T2MEvaluator.official(tmp_path / "x.safetensors", kit, feat_bias=1.0, **TINY)
        stats = FeatureStats(torch.zeros(263), torch.ones(263))
        spm = reference("spm") / "small_spm_M1T0.pth"
        with pytest.raises(ValueError, match="looks like the SPM of EasyTune"):
            T2MEvaluator.official(spm, stats, feat_bias=1.0)

    def test_our_own_file_brings_it_back_with_its_units(self, tmp_path):
        judge, (motion, lengths, _) = tiny(feat_bias=25.0), motions([12, 8])
        again = T2MEvaluator.load(judge.save(tmp_path / "x.safetensors"))
        assert torch.equal(judge.embed_motion(motion, lengths), again.embed_motion(motion, lengths))

    def test_no_skeleton_has_other_features(self):
        with pytest.raises(ValueError, match=r"\[251, 263\] numbers a frame, got 22 and 22"):
            tiny(features=22)


class TestMotions:
    @torch.no_grad()
    @pytest.mark.parametrize("features", [263, 251])
    def test_neither_padding_nor_the_rest_of_the_batch_matters(self, features):
        judge = tiny(features)
        motion, lengths, mask = motions([196, 44, 45, 47, 4, 192, 195, 100], features)
        found = judge.embed_motion(motion, lengths)
        junk = judge.embed_motion(motion.masked_fill(~mask[..., None], 7.0), lengths)
        assert torch.equal(found, junk)
        wide = torch.cat([motion, torch.full((8, 30, features), 7.0)], dim=1)
        torch.testing.assert_close(judge.embed_motion(wide, lengths), found, **CLOSE)
        order = torch.tensor([4, 0, 7, 2, 1, 3, 6, 5])
        shuffled = judge.embed_motion(motion[order], lengths[order])
        torch.testing.assert_close(shuffled, found[order], **CLOSE)
        for row, n in enumerate(lengths.tolist()):
            alone = judge.embed_motion(motion[[row], :n], lengths[[row]])
            torch.testing.assert_close(alone[0], found[row], **CLOSE)

    @torch.no_grad()
    def test_all_but_contacts_is_read(self):
        judge, (motion, lengths, _) = tiny(), motions([16])
        before = judge.embed_motion(motion, lengths)
        for column, read in ((0, True), (258, True), (259, False), (262, False)):
            changed = motion.clone()
            changed[..., column] += 1
            assert torch.equal(judge.embed_motion(changed, lengths), before) != read

    @pytest.mark.parametrize("lengths", [[3, 8], [200, 8]])
    def test_lengths_it_cannot_read_are_named(self, lengths):
        motion, given, _ = motions(lengths)
        with pytest.raises(ValueError, match=rf"\[{lengths[0]}\]: cut the motions"):
            tiny().embed_motion(motion, given)
        with pytest.raises(ValueError, match="4 to 4 frames"):
            tiny().embed_motion(motion[:, :4], given)


class TestCaptions:
    def test_tokens_become_vectors_and_parts_of_speech(self):
        vectors, lengths, pos = words()(["a/DET person/NOUN walk/VERB", "bow/NOUN xyzzy/VERB"])
        assert vectors.shape == (2, 5, 4) and lengths.tolist() == [5, 4]
        table = words().table
        rows = [VOCABULARY.index(w) for w in ("sos", "a", "person", "walk", "eos")]
        np.testing.assert_array_equal(vectors[0], table[rows])
        assert [POS[i] for i in pos[0]] == ["OTHER", "DET", "NOUN", "Act_VIP", "OTHER"]
        np.testing.assert_array_equal(vectors[1, 2], table[0])  # unk
        assert [POS[i] for i in pos[1]] == ["OTHER", "NOUN", "OTHER", "OTHER", "OTHER"]

    def test_long_captions_are_cut_and_odd_parts_of_speech_are_other(self):
        _, lengths, pos = words()([" ".join(["person/NOUN"] * 30), "person/CCONJ a/b/DET"])
        assert lengths.tolist() == [22, 4]
        assert pos[1, 1] == OTHER

    def test_the_vocabulary_of_classes(self):
        assert len(POS) == 15 and len(IMPORTANT) == 81
        assert POS[IMPORTANT["left"]] == "Loc_VIP" and POS[IMPORTANT["sadly"]] == "Desc_VIP"

    @torch.no_grad()
    def test_order_padding_and_part_of_speech(self):
        judge = tiny(words=words())
        texts = ["a/DET person/NOUN bow/VERB", "a/DET", "person/NOUN walk/VERB forward/ADV a/DET"]
        found = judge.embed_text(texts)
        torch.testing.assert_close(judge.embed_text(texts[::-1]), found.flip(0), **CLOSE)
        for row, text in enumerate(texts):
            torch.testing.assert_close(judge.embed_text([text])[0], found[row], **CLOSE)
        assert not torch.equal(judge.embed_text(["a/DET person/NOUN bow/NOUN"])[0], found[0])

    def test_captions_are_looked_up(self):
        clip = Clip(
            "c",
            "test",
            np.zeros((8, 263), np.float32),
            (Caption("A person.", "a/DET person/NOUN"),),
        )
        judge = tiny(words=words([clip]))
        assert torch.equal(judge.embed_text(["A person."]), judge.embed_text(["a/DET person/NOUN"]))
        with pytest.raises(ValueError, match="no parts of speech are known of 'he bows'"):
            judge.embed_text(["he bows"])
        with pytest.raises(ValueError, match="has no word vectors"):
            tiny().embed_text(["a/DET"])


class TestWordFiles:
    def write(self, folder, vocabulary=VOCABULARY, index=None, table=None):
        table = words().table if table is None else table
        np.save(folder / "our_vab_data.npy", table)
        (folder / "our_vab_words.pkl").write_bytes(pickle.dumps(vocabulary))
        if index is not None:
            (folder / "our_vab_idx.pkl").write_bytes(pickle.dumps(index))
        return folder

    def test_official_files_are_read(self, tmp_path):
        clip = Clip(
            "c", "test", np.zeros((8, 263), np.float32), (Caption("A bow.", "a/DET bow/NOUN"),)
        )
        plain = TaggedWords.official(self.write(tmp_path, list(VOCABULARY)), [clip])
        np.testing.assert_array_equal(plain(["A bow."])[0], words()(["a/DET bow/NOUN"])[0])
        turned = {word: len(VOCABULARY) - 1 - i for i, word in enumerate(VOCABULARY)}
        self.write(tmp_path, list(VOCABULARY), turned, words().table[::-1].astype(np.float64))
        again = TaggedWords.official(tmp_path)
        np.testing.assert_array_equal(again(["a/DET bow/NOUN"])[0], plain(["a/DET bow/NOUN"])[0])

    def test_code_is_never_run(self, tmp_path):
        self.write(tmp_path)
        (tmp_path / "our_vab_words.pkl").write_bytes(pickle.dumps(print))
        with pytest.raises(ValueError, match=r"our_vab_words.pkl is no plain .* builtins.print"):
            TaggedWords.official(tmp_path)

    @pytest.mark.parametrize(
        "wrong",
        [
            {"vocabulary": ["a", "b"]},  # without "unk"
            {"vocabulary": [*VOCABULARY, "more"]},  # more words than rows
            {"vocabulary": 7},
            {"index": {"a": 0}},
            {"table": np.zeros(8, np.float32)},
            {"table": np.array([{"a": 1}], dtype=object)},
        ],
    )
    def test_files_that_do_not_belong_together_are_refused(self, tmp_path, wrong):
        with pytest.raises(ValueError, match=str(tmp_path)):
            TaggedWords.official(self.write(tmp_path, **wrong))

    @pytest.mark.parametrize("content", [b"", b"no pickle", None])
    def test_damaged_files_are_named(self, tmp_path, content):
        path = self.write(tmp_path) / "our_vab_words.pkl"
        path.unlink() if content is None else path.write_bytes(content)
        with pytest.raises(ValueError, match=r"our_vab_words\.pkl"):
            TaggedWords.official(tmp_path)


def test_the_report_takes_it():
    """64 motions of 2 captions, judged end to end."""
    captions = (
        Caption("he walks", "person/NOUN walk/VERB"),
        Caption("he bows", "person/NOUN bow/VERB"),
    )
    clips = [
        Clip(str(i), "test", np.zeros((8, 263), np.float32), (captions[i % 2],)) for i in range(64)
    ]
    judge = tiny(words=words(clips))
    motion, lengths, _ = motions([16, 12] * 32)
    texts = tuple(clip.captions[0].text for clip in clips)
    empty = torch.zeros(64, 1, 1)
    prompts = Prompts(TextFeatures(texts, empty[:, 0], empty, empty[..., 0].bool()), lengths)
    real = Reference.of(embed_motions(judge, motion.flip(0), lengths.flip(0)))
    rng = torch.Generator().manual_seed(0)
    scores = evaluate(judge, motion, prompts, texts, real, rng, distinct="none")
    assert 0 <= scores.r1 <= scores.r2 <= scores.r3 <= 1
    assert scores.mm_dist > 0 and scores.diversity > 0
    assert scores.fid == pytest.approx(0, abs=1e-4)
