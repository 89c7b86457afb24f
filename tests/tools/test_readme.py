"""No number in README's tables is typed in by hand."""

from tools.readme import BLOCKS, FIGURES, GUIDES, ROOT, fill


def test_tables_are_those_of_the_records():
    text = "".join((ROOT / name).read_text(encoding="utf-8") for name in GUIDES)
    assert fill(text) == text, "run `python -m tools.readme`"


def test_every_block_is_there():
    text = "".join((ROOT / name).read_text(encoding="utf-8") for name in GUIDES)
    for name in BLOCKS:
        assert text.count(f"<!-- {name} -->") == text.count(f"<!-- /{name} -->") == 1


def test_a_number_changed_by_hand_is_put_right():
    text = "a\n<!-- TRAINED -->\n9.99 M\n<!-- /TRAINED -->\nb"
    filled = fill(text)
    assert "9.99 M" not in filled and filled.startswith("a\n<!-- TRAINED -->\n| network |")
    assert filled.endswith("<!-- /TRAINED -->\nb") and fill(filled) == filled


def test_figures_and_links_lead_somewhere():
    for name, figure in FIGURES.items():
        assert len(list((ROOT / "notebooks").rglob(f"{name}.ipynb"))) == 1
        assert (ROOT / "figures" / f"{figure}.png").exists(), figure
