"""One page with all figures, that needs no network and no server."""

import json
from collections.abc import Iterator
from html import escape
from pathlib import Path
from urllib.parse import quote

from easytune_lib.app.notebook import read_notebook, title

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
       color: #111; background: #fff; }
figure { margin: 2.5rem 0; }
img { min-width: min(36rem, 100%); max-width: 100%; height: auto; }
figcaption { color: #333; } small { color: #666; } h1, h2 { line-height: 1.2; }
"""


def write_gallery(root: Path, size: str = "laptop") -> Path:
    """Write ``figures/index.html``: each figure with caption and runs, and links to notebooks.

    Args:
        root: The repository.
        size: Whose executed notebooks are linked.

    Returns:
        The page's path.
    """
    from easytune_lib.storage import write_atomic

    figures = root / "figures"
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>EasyTune Workbench: figures</title><style>{_STYLE}</style></head><body>",
        "<h1>EasyTune Workbench</h1>",
        "<h2>Notebooks</h2><ul>",
        *_notebooks(root, size),
        "</ul>",
        *_figures(figures, root),
        "</body></html>",
    ]
    return write_atomic(figures / "index.html", ("\n".join(parts) + "\n").encode())


def _notebooks(root: Path, size: str) -> Iterator[str]:
    for path in sorted((root / "notebooks").rglob("*.ipynb")):
        page = root / "outputs" / size / f"{path.stem}.html"
        target = page if page.exists() else path
        text = escape(title(read_notebook(path)) or path.stem)
        yield f"<li>{_link(target, root, text)} <small>{escape(path.stem)}</small></li>"


def _figures(figures: Path, root: Path) -> Iterator[str]:
    """The figures of this machine, then those of each folder, such as ``full``."""
    folders = sorted({path.parent for path in figures.rglob("*.json")})
    for folder in folders:
        name = folder.relative_to(figures).as_posix()
        yield f"<h2>Figures{'' if name == '.' else f': {escape(name)}'}</h2>"
        yield from (_figure(path, root) for path in sorted(folder.glob("*.json")))


def _figure(path: Path, root: Path) -> str:
    """One figure; its JSON names the runs that it shows."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        caption, runs = str(content.get("caption", "")), [str(run) for run in content["runs"]]
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"<p>{escape(path.name)} is not the JSON of a figure.</p>"
    images = [p for p in (path.with_suffix(s) for s in (".svg", ".png", ".pdf")) if p.exists()]
    if not images:
        return f"<p>{escape(path.name)} has no image beside it.</p>"
    files = [_link(image, root, image.suffix[1:].upper()) for image in images]
    source = images[0].relative_to(root / "figures").as_posix()
    records = [_link(root / "runs" / run / "record.json", root, escape(run)) for run in runs]
    return (
        f'<figure><img src="{quote(source)}" loading="lazy" '
        f'alt="{escape(path.stem)}"><figcaption>{escape(caption)}<br><small>'
        f"{' '.join(files)} of {', '.join(records)}</small></figcaption></figure>"
    )


def _link(target: Path, root: Path, text: str) -> str:
    """A link from the page, which lies in ``figures``; ``text`` is HTML already."""
    return f'<a href="../{quote(target.relative_to(root).as_posix())}">{text}</a>'
