"""Every official file: what it is, where it lies, under which licence, and how to get it.

Nothing was downloaded to write this table: links are those of the projects' own pages and
scripts, as they stood in November 2026. Checksums are those that were published; only TMR's was.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from easytune_lib.data.downloads import download, verify
from easytune_lib.progress import Ticker, spell
from easytune_lib.storage import alone
from easytune_lib.text.encoders import PUBLISHED
from easytune_lib.text.hub import fetch_text_model

DRIVE = "https://drive.google.com/file/d/{}/view"
LCM_ZIP = DRIVE.format("1U7homKobR2gaDLfL5flS3N0g7e0a_AQd")
DIFFUSE = "https://drive.google.com/drive/folders/1qxHtwffhfI4qMwptNW6KJEDuT6bduqO7"
RFT = "https://huggingface.co/txf0620/{}/resolve/main/{}"
STATS = "https://raw.githubusercontent.com/EricGuo5513/HumanML3D/main/HumanML3D/{}"
LCM = "MotionLCM licence: NON-COMMERCIAL, derivatives open"
S_LAB = "S-Lab 1.0: NON-COMMERCIAL"
UNSTATED = "none stated: ask its authors before you build on it"
LOOK = "easytune checkpoint inspect {folder}/{file}"
UNSAID = "not stated"


@dataclass(frozen=True)
class Item:
    """Something to be got: by ``urls``, from the hub as an ``encoder``, or by hand at ``page``."""

    what: str
    licence: str
    size: str  # as published; "~": from the number of its parameters
    page: str = ""
    urls: dict[str, str] = field(default_factory=dict[str, str])  # by the name to be kept under
    encoder: str = ""
    file: str = ""  # what is of use to us, where that is one of several, or in an archive
    checksum: str = ""
    then: str = LOOK  # the next command

    @property
    def how(self) -> Literal["download", "hub", "by hand"]:
        """How it is got."""
        return "download" if self.urls else "hub" if self.encoder else "by hand"

    def next_step(self, folder: Path) -> str:
        """What to do once it is in ``folder``."""
        return self.then.format(folder=folder, file=self.file)


def _encoder(name: str, licence: str, size: str) -> Item:
    found = PUBLISHED[name]
    then = f'in Python: published_encoder("{name}", "{{folder}}")'
    page = f"https://huggingface.co/{found.hub}"
    what = f"text encoder: {found.gives}"
    return Item(what, licence, size, page, encoder=name, then=then)


def _mdm(what: str, drive: str, file: str) -> Item:
    return Item(f"MDM, {what}; args.json", "MIT", UNSAID, DRIVE.format(drive), file=file)


ITEMS: dict[str, Item] = {
    "mld": Item(
        "MLD, original, CLIP text, HumanML3D", "MIT", "~190 MB",
        DRIVE.format("1hplrnQwUK_cZFHirZIOuVP0RSyZEC1YM"), file="1222_mld_humanml3d_FID041.ckpt",
    ),
    "mld-t5": Item(
        "MLD V1, sentence-T5 text, HumanML3D: EasyTune's base; a copy by EasyTune's authors",
        LCM, "184 MB", file="mld_humanml_v1.ckpt",
        urls={
            "mld_humanml_v1.ckpt": RFT.format(
                "MotionRFT_Models", "pretrain/mld/mld_humanml_v1.ckpt"
            )
        },
    ),
    "mld++": Item("MLD++, HumanML3D", LCM, UNSAID, LCM_ZIP, file="mld_humanml/mld_humanml.ckpt"),
    "motionlcm-v1": Item(
        "MotionLCM V1, HumanML3D", LCM, UNSAID, LCM_ZIP,
        file="motionlcm_humanml/motionlcm_humanml_v1.ckpt",
    ),
    "motionlcm-v2": Item(
        "MotionLCM V2, HumanML3D", LCM, UNSAID, LCM_ZIP,
        file="motionlcm_humanml/motionlcm_humanml.ckpt",
    ),
    "mdm": _mdm(
        "encoder, 1000 steps, HumanML3D", "1PE0PK8e5a5j-7-Xhs5YET5U5pGh0c821",
        "humanml_trans_enc_512/model000475000.pt",
    ),
    "mdm-50": _mdm(
        "encoder, 50 steps, HumanML3D", "1cfadR1eZ116TIdXK7qDX1RugAerEiJXr",
        "humanml_enc_512_50steps/model000750000.pt",
    ),
    "mdm-bert-50": _mdm(
        "decoder over DistilBERT's words, 50 steps, HumanML3D",
        "1z5IW5Qa9u9UdkckKylkcSXCwIYgLPhIC", "humanml_trans_dec_512_bert/model000600000.pt",
    ),
    "mdm-decoder": _mdm(
        "decoder, 1000 steps, HumanML3D", "1q3soLadvVh7kJuJPd2cegMNY2xVuVudj", "*/model*.pt"
    ),
    "mdm-decoder-emb": _mdm(
        "decoder with the caption in front, 1000 steps, HumanML3D",
        "1GnsW0K3UjuOkNkAWmjrGIUmeDDZrmPE5", "*/model*.pt",
    ),
    "mdm-kit": _mdm(
        "encoder, 1000 steps, KIT-ML", "1SHCRcE0es31vkJMLGf9dyLe7YsWj7pNL",
        "kit_trans_enc_512/model000400000.pt",
    ),
    "motiondiffuse": Item(
        "MotionDiffuse, HumanML3D; CLIP is inside, statistics in meta", S_LAB, "~950 MB", DIFFUSE,
        file="t2m_motiondiffuse/model/latest.tar",
    ),
    "motiondiffuse-kit": Item(
        "MotionDiffuse, KIT-ML; CLIP is inside, statistics in meta", S_LAB, "~950 MB", DIFFUSE,
        file="kit_motiondiffuse/model/latest.tar",
    ),
    "spm": Item(
        "SPM, EasyTune's reward: announced, its links lead to bare hosts", UNSTATED, UNSAID,
        "https://github.com/wengwanjiang/EasyTune", file="*.pth",
        then='in Python: OfficialSPM.load("{folder}/FILE", stats)',
    ),
    "spm-hy": Item(
        "an SPM that scores HY-Motion's features (135 a frame, by its code, not HumanML3D's 263)",
        UNSTATED, "102 MB", file="evaluator.pth",
        urls={"evaluator.pth": RFT.format("MotionRFT_Checkpoints", "RFT_HY/t2m/evaluator.pth")},
    ),
    "mld-rft": Item(
        "MLD V1 as MotionRFT tuned it, HumanML3D", UNSTATED, "1.5 GB", file="best.ckpt",
        urls={"best.ckpt": RFT.format(
            "MotionRFT_Checkpoints", "RFT_MLD/checkpoints/rft_mld/best/checkpoints/best.ckpt"
        )},
    ),
    "tmr": Item(
        "TMR, retrieval of motion by text", "MIT", UNSAID,
        DRIVE.format("1n6kRb-d2gKsk8EXfFULFIpaUKYcnaYmm"), file="tmr_models.tgz",
        checksum="md5:7b6d8814f9c1ca972f62852ebb6c7a6f",
        then="none: no part of this library reads TMR",
    ),
    "t2m-evaluator": Item(
        "T2M evaluator, HumanML3D: the field's judge", "MIT", UNSAID,
        DRIVE.format("1DSaKqWX2HlwBtVH5l7DdW96jeYUIXsOP"),
        file="t2m/text_mot_match/model/finest.tar",
    ),
    "t2m-evaluator-kit": Item(
        "T2M evaluator, KIT-ML", "MIT", UNSAID, DRIVE.format("1tX79xk0fflp07EZ660Xz1RAFE33iEyJR"),
        file="kit/text_mot_match/model/finest.tar",
    ),
    "sentence-t5-large": _encoder("sentence-t5-large", "Apache-2.0", UNSAID),
    "clip-vit-large-patch14": _encoder("clip-vit-large-patch14", "MIT", "~1.7 GB"),
    "clip-vit-base-patch32": _encoder("clip-vit-base-patch32", "MIT", "~0.6 GB"),
    "distilbert-base-uncased": _encoder("distilbert-base-uncased", "Apache-2.0", "~0.27 GB"),
    "humanml3d-statistics": Item(
        "mean and std of HumanML3D's features: what checkpoints leave out", "MIT", "5 kB",
        urls={name: STATS.format(name) for name in ("Mean.npy", "Std.npy")},
        then="put both files beside a checkpoint, then: easytune checkpoint inspect FILE",
    ),
    "humanml3d": Item(
        "HumanML3D: made on your machine from AMASS, with its authors' notebooks",
        "AMASS: one asks for it, and does not pass it on", UNSAID,
        "https://github.com/EricGuo5513/HumanML3D", then="easytune data check {folder}",
    ),
    "kit-ml": Item(
        "KIT-ML as HumanML3D's authors prepared it", "that of the KIT motion-language data set",
        UNSAID, "https://github.com/EricGuo5513/HumanML3D", then="easytune data check {folder}",
    ),
}  # fmt: skip


def find(name: str) -> Item:
    """An item by its name.

    Raises:
        ValueError: There is none; names those that are near.
    """
    if name in ITEMS:
        return ITEMS[name]
    near = get_close_matches(name.lower(), ITEMS, n=3, cutoff=0.5)
    near += [each for each in ITEMS if name and name.lower() in each and each not in near]
    guess = f": did you mean {' or '.join(near[:4])}?" if near else ":"
    raise ValueError(f"no weights are named {name!r}{guess} `easytune weights list` names all")


def table() -> Iterator[str]:
    """A line for each item, below a head."""
    rows = [("name", "got by", "size", "licence", "what")]
    rows += [(n, each.how, each.size, each.licence, each.what) for n, each in ITEMS.items()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()


def get(name: str, to: Path, ticker: Ticker) -> bool:
    """Fetch an item, or say how to do it by hand; whether it is there now.

    Args:
        name: A key of :data:`ITEMS`.
        to: A folder.
        ticker: Is told the licence first, then the progress, then the next command.

    Raises:
        ValueError: There is no such item, it could not be fetched (see :func:`download`), or
            another process is fetching it into the same folder.
    """
    item = find(name)
    ticker.say(f"{name}: {item.what}")
    ticker.say(f"licence: {item.licence}")
    ticker.say(f"size: {item.size}; from {item.page or ', '.join(item.urls.values())}")
    if item.how == "by hand":
        found = sorted(to.glob(item.file)) if item.file else []
        for file in found:
            verify(file, item.checksum)
            ticker.say(f"{file} is there")
        if not found:
            what = f"so that {to / item.file} is there" if item.file else f"to {to}"
            ticker.say(f"It cannot be fetched for you: open {item.page} in a browser,")
            ticker.say(f"read its terms, download it, and unpack it {what}.")
        there = bool(found)
    elif item.how == "hub":
        encoder = PUBLISHED[item.encoder]
        with alone(to, "download"):
            fetch_text_model(encoder.hub, dense=encoder.options.get("dense", ""), to=to)
        there = True
    else:
        with alone(to, "download"):
            for file, url in item.urls.items():
                _fetch(url, to / file, item.checksum, ticker)
        there = True
    ticker.say(f"{'next' if there else 'then'}: {item.next_step(to)}")
    return there


def _fetch(url: str, file: Path, checksum: str, ticker: Ticker) -> None:
    if file.exists():
        verify(file, checksum)
        ticker.say(f"{file} is there already")
        return
    for step in download(url, file, checksum):
        total = "" if step.total is None else f" of {step.total / 1e6:.1f}"
        left = "" if step.eta is None else f", about {spell(step.eta)} left"
        ticker.passing(
            f"{file.name}: {step.done / 1e6:.1f}{total} MB, {step.pace / 1e6:.1f} MB/s{left}",
            urgent=step.done == step.total,
        )
    ticker.say(f"{file}: {'its checksum is right' if checksum else 'no checksum was published'}")
