from pathlib import Path

import pytest
from tiny_notebook import cell, executed, notebook, write

from easytune_lib.app.cli import main
from easytune_lib.app.docs import broken_links, write_docs
from easytune_lib.app.runner import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Three guides, a notebook and a figure."""
    root = tmp_path / "repository"
    content = notebook("3", heading="# Does it move?")
    content["cells"].insert(1, cell("See [README](../README.md).", "markdown") | {"id": "m"})
    write(root, "00_a", executed(content))
    said = "[a](notebooks/00_a.ipynb), [house](CONTRIBUTING.md#the-words), [f](figures/f.png)"
    (root / "figures").mkdir()
    (root / "figures" / "f.png").write_bytes(b"a figure")
    (root / "README.md").write_text(f"# Here\n\n{said}, [web](https://example.org/x.md)\n")
    (root / "CONTRIBUTING.md").write_text("# House\n\n## the-words\n\n`x < y`\n")
    (root / "CHANGELOG.md").write_text("# New\n")
    return root


def docs(root: Path, folder: Path) -> list[Path]:
    return write_docs(root, folder, "easytune_lib.plan")


def test_a_site_holds_guides_notebooks_and_reference(repository: Path, tmp_path: Path):
    pages = docs(repository, tmp_path / "docs")
    names = {page.relative_to(tmp_path / "docs").as_posix() for page in pages}
    assert {"index.html", "README.html", "notebooks/00_a.html"} <= names
    reference = (tmp_path / "docs" / "api" / "easytune_lib" / "plan.html").read_text()
    assert "Which gradient of a rollout ex" in reference
    assert 'id="GradientPlan.rewarded"' in reference and ":class:" not in reference
    readme = (tmp_path / "docs" / "README.html").read_text()
    assert 'href="notebooks/00_a.html"' in readme and "https://example.org/x.md" in readme
    assert (tmp_path / "docs" / "README.md").exists(), "a notebook's page links to it"
    assert (tmp_path / "docs" / "figures" / "f.png").read_bytes() == b"a figure"
    assert broken_links(tmp_path / "docs") == []


@pytest.mark.parametrize(
    ("link", "named"),
    [("figures/lost.png", "figures/lost.png"), ("CONTRIBUTING.md#no", "CONTRIBUTING.html#no"),
     ("../secret.txt", "../secret.txt")],
)  # fmt: skip
def test_a_link_that_leads_nowhere_is_named(repository: Path, tmp_path: Path, link, named):
    (tmp_path / "secret.txt").write_text("not of the repository")
    with (repository / "CHANGELOG.md").open("a") as file:
        file.write(f"\n[x]({link})\n")
    with pytest.raises(ValueError, match="1 links lead nowhere") as error:
        docs(repository, tmp_path / "out" / "docs")
    assert f"CHANGELOG.html: {named}" in str(error.value)
    assert not (tmp_path / "out" / "secret.txt").exists(), "nothing is copied from outside"


def test_the_whole_documentation_has_no_broken_link(tmp_path: Path, capsys):
    assert main(["docs", "--to", str(tmp_path)]) == 0
    assert "every link within them leads somewhere" in capsys.readouterr().out
    assert len(list((tmp_path / "api").rglob("*.html"))) > 100
    assert len(list((tmp_path / "notebooks").rglob("*.html"))) == 1 + len(
        list((ROOT / "notebooks").rglob("*.ipynb"))
    )
