"""The documentation as one site that needs no network: guides, notebooks, reference."""

import importlib
import pkgutil
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from easytune_lib.app.page import markdown, plain_page, write_site
from easytune_lib.storage import write_atomic

GUIDES = {
    "README": "what it is, and how to begin",
    "GUIDE": "notebooks, command line, your own data, model and reward",
    "RESULTS": "what was found",
    "CONTRIBUTING": "the house: its rooms, words and habits",
    "CHANGELOG": "what is new",
}
_PAGE = re.compile(
    rf'(href="(?:{"|".join(GUIDES)}|notebooks/(?:studies/)?\w+))\.(?:md|ipynb)([#"])'
)
_ANCHOR = re.compile(r'<a href="#([^"]+)">(.*?)</a>', re.DOTALL)


def write_docs(root: Path, folder: Path, package: str = "easytune_lib") -> list[Path]:
    """Write all pages, copy the files that they link to, and follow every link.

    Args:
        root: The repository.
        folder: Where to.
        package: Whose docstrings are the reference.

    Returns:
        The pages, the contents first.

    Raises:
        ValueError: A link leads nowhere; says which. Or pdoc is not installed.
    """
    there = {name: what for name, what in GUIDES.items() if (root / f"{name}.md").exists()}
    guides = [_guide(root / f"{name}.md", folder) for name in there]
    notebooks = write_site(root, folder / "notebooks")
    reference = _reference(package, folder / "api")
    for page in (*guides, *notebooks):
        _bring(page, root, folder)
    rows = [f'<li><a href="{name}.html">{name}</a>: {what}</li>' for name, what in there.items()]
    api = f"api/{package.replace('.', '/')}.html"
    rows += [
        '<li><a href="notebooks/index.html">Notebooks</a>: questions, results, exercises</li>',
        f'<li><a href="{api}">Reference</a>: every module, from its docstrings</li>',
    ]
    body = f"<h1>EasyTune Workbench</h1><ul>{''.join(rows)}</ul>"
    index = write_atomic(folder / "index.html", plain_page("EasyTune Workbench", body).encode())
    if broken := broken_links(folder):
        raise ValueError(f"{len(broken)} links lead nowhere:\n" + "\n".join(broken))
    return [index, *guides, *notebooks, *reference]


def broken_links(folder: Path) -> list[str]:
    """Links within a site that lead to no file, or to no such place in it; those outside are not
    followed.

    Returns:
        Lines of ``page: link``.
    """
    read = {path.resolve(): _read(path) for path in sorted(folder.rglob("*.html"))}
    found = []
    for path, page in read.items():
        for link in page.links:
            if (target := _local(path, link)) is None:
                continue
            place = unquote(urlsplit(link).fragment)
            lost = not target.is_file() or (
                place and target in read and place not in read[target].places
            )
            if lost:
                found.append(f"{path.relative_to(folder.resolve())}: {link}")
    return found


def _guide(path: Path, folder: Path) -> Path:
    """A Markdown file as a page; its links to others lead to their pages."""
    body = _PAGE.sub(r"\1.html\2", markdown(path.read_text(encoding="utf-8")))
    return write_atomic(folder / f"{path.stem}.html", plain_page(path.stem, body).encode())


def _reference(package: str, folder: Path) -> list[Path]:
    try:
        import pdoc
        import pdoc.render
    except ImportError as error:
        raise ValueError("the reference needs pdoc: pip install pdoc") from error
    pdoc.render.configure(docformat="google", show_source=False)
    top = importlib.import_module(package)  # pdoc alone shows no more than its `__all__`
    inner = pkgutil.iter_modules(getattr(top, "__path__", ()), f"{package}.")
    names = [package, *(m.name for m in inner if not m.name.endswith("__main__"))]
    pdoc.pdoc(*names, output_directory=folder)
    pages = sorted(folder.rglob("*.html"))
    for page in pages:  # pdoc also links names that it has inherited and does not show
        page.write_text(_without_lost_places(page), encoding="utf-8")
    return pages


def _without_lost_places(page: Path) -> str:
    """A page whose links to places that it does not have are plain text."""
    places = _read(page).places

    def kept(found: re.Match[str]) -> str:
        return found[0] if found[1] in places else found[2]

    return _ANCHOR.sub(kept, page.read_text(encoding="utf-8"))


def _bring(page: Path, root: Path, folder: Path) -> None:
    """Copy what a page links to and only the repository has."""
    for link in _read(page).links:
        target = _local(page.resolve(), link)
        if target is None or target.exists() or not target.is_relative_to(folder.resolve()):
            continue
        source = root / target.relative_to(folder.resolve())
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


def _local(page: Path, link: str) -> Path | None:
    """The file that a page's link means; none if it leads elsewhere."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return None
    return (page.parent / unquote(parts.path)).resolve() if parts.path else page


class _Read(HTMLParser):
    """Collects a page's links and the places that links may name."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.places: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Of any element."""
        for name, value in attrs:
            if value and name in ("href", "src"):
                self.links.append(value)
            elif value and (name == "id" or (tag == "a" and name == "name")):
                self.places.add(value)


def _read(path: Path) -> _Read:
    reader = _Read()
    reader.feed(path.read_text(encoding="utf-8"))
    return reader
