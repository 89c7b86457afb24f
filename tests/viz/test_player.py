import base64
import html
import json
import re
import struct
from html.parser import HTMLParser

import numpy as np
import pytest
from viz_walking import walking

from easytune_lib.motion.skeleton import HUMANML3D, KIT
from easytune_lib.viz.player import MotionPlayer, MotionWidget

EVIL = '</script><img src=x onerror="alert(1)">\u2028<!-- "\'&'


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


def unpacked(player: MotionPlayer, track: int) -> np.ndarray:
    """Joints as the player's script reads them from the page."""
    data = re.search(r"mount\(document.getElementById\('player'\), (.*)\);</script>", player.page())
    spec = json.loads(data[1])
    packed = spec["tracks"][track]
    data = memoryview(base64.b64decode(packed["data"]))
    values: list[int] = []
    width, place = 3 * packed["joints"], 0
    while place < len(data):
        step, place = struct.unpack_from("<b", data, place)[0], place + 1
        if step == -128:
            values.append(struct.unpack_from("<h", data, place)[0])
            place += 2
        else:
            values.append(step + (values[-width] if len(values) >= width else 0))
    return np.reshape(values, (packed["frames"], packed["joints"], 3)) * spec["scale"]


@pytest.mark.parametrize("skeleton", [HUMANML3D, KIT])
def test_motions_come_through_within_a_millimetre(skeleton):
    motions = [walking(196, skeleton), walking(50, speed=0.1)]
    player = MotionPlayer(motions)
    for i, motion in enumerate(motions):
        assert np.abs(unpacked(player, i) - motion.joints).max() < 1e-3


def test_jumps_and_long_ways_come_through():
    motion = walking(30)
    motion.joints[::2] += np.array([20.0, 0.0, -3.0], np.float32)
    player = MotionPlayer(motion)
    assert np.abs(unpacked(player, 0) - motion.joints).max() < 1e-3


def test_ten_seconds_take_less_than_60_kb():
    size = len(MotionPlayer(walking(196), names=["EasyTune"], title="A walk")._repr_html_())
    assert size < 60_000


def test_joints_have_names_and_feet_are_known():
    (body,) = MotionPlayer(walking(4, KIT)).spec["bodies"]
    assert tuple(body["joints"]) == KIT.joints
    assert [KIT.joints[toe] for toe in body["toes"]] == [KIT.left_foot[1], KIT.right_foot[1]]


def test_all_but_the_last_of_an_overlay_are_ghosts():
    three = [walking(4)] * 3
    for overlay, ghosts in ((True, [True, True, False]), (False, [False] * 3)):
        spec = MotionPlayer(three, overlay=overlay).spec
        assert [track["ghost"] for track in spec["tracks"]] == ghosts


def test_words_stay_words():
    player = MotionPlayer(
        walking(4), names=[EVIL], title=EVIL, captions=[EVIL], rewards=[np.arange(4)]
    )
    outside = Tags(player._repr_html_()).tags
    assert [tag for tag, _ in outside] == ["iframe"]
    page = outside[0][1]["srcdoc"]
    assert page == player.page()
    inside = [tag for tag, _ in Tags(page).tags]
    assert inside.count("script") == 1 and not {"img", "iframe"} & set(inside)
    assert json.loads(json.dumps(player.spec))["title"] == EVIL
    assert "innerHTML" not in page and "insertAdjacentHTML" not in page


def test_the_page_asks_for_nothing():
    page = MotionPlayer(walking(4)).page()
    assert not re.search(r"https?://|\bfetch\(|\bimport\s*\(|src=|href=", page)


def test_it_tells_who_and_what_to_those_who_cannot_see():
    player = MotionPlayer([walking(4), walking(5)], names=["base", "EasyTune"])
    iframe = Tags(player._repr_html_()).tags[0][1]
    assert iframe["title"] == "Motion player: base, EasyTune"
    assert [c["label"] for c in player.spec["cells"]] == [
        "base: a person walks", "EasyTune: a person walks",
    ]  # fmt: skip


def test_a_shared_caption_is_shown_once():
    one = MotionPlayer([walking(4), walking(5)]).spec
    assert one["caption"] == "a person walks" and not any(c["caption"] for c in one["cells"])
    assert not MotionPlayer(walking(4), title="a person walks").spec["caption"]  # nor twice
    two = MotionPlayer([walking(4), walking(5, text="a person runs")]).spec
    assert not two["caption"] and [c["caption"] for c in two["cells"]][1] == "a person runs"


def test_motions_of_different_rates_share_the_clock():
    slow, fast = walking(25, KIT), walking(60)  # 2 s at 12.5, 3 s at 20
    spec = MotionPlayer([slow, fast]).spec
    assert spec["frames"] == round(3 * 12.5)
    assert all(
        len(base64.b64decode(cell["focus"])) == spec["frames"] * 2 * 2 for cell in spec["cells"]
    )
    assert MotionPlayer([slow, fast], overlay=True).spec["cells"][0]["tracks"] == [0, 1]


def test_reprs_have_no_address():
    player = MotionPlayer([walking(4), walking(6)])
    assert repr(player) == "MotionPlayer(2 motions, 6 frames)"
    assert repr(player.widget()) == "MotionWidget(Motion player: motion 1, motion 2)"


def test_the_widget_carries_the_same_player():
    player = MotionPlayer(walking(4), frame=2)
    widget = player.widget()
    assert isinstance(widget, MotionWidget)
    assert (widget.spec, widget.frame, widget.playing) == (player.spec, 2, True)
    assert not MotionPlayer(walking(4), autoplay=False).widget().playing
    assert widget.layout.max_width == f"{player.width}px"  # as wide as the page's
    seen = []
    widget.observe(lambda change: seen.append(change["new"]), "frame")
    widget.frame = 3
    assert seen == [3]


def test_saved_page_is_the_page(tmp_path):
    player = MotionPlayer(walking(4))
    assert player.save(tmp_path / "walk.html").read_text() == player.page()
    assert html.escape("<") not in player.page().split("<script")[1]  # a script is not markup


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"motions": []}, "1 to 12 motions, got 0"),
        ({"motions": [walking(2)] * 13}, "got 13"),
        ({"names": ["a", "b"]}, "as many names, got 2"),
        ({"rewards": [[1.0, 2.0]]}, "2 numbers"),
        ({"rewards": [[1.0, 2.0, np.nan, 0.0]]}, "finite: False"),
        ({"rewards": [[]]}, "no number"),
    ],
)
def test_mistakes_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        MotionPlayer(**{"motions": walking(4), **change})
