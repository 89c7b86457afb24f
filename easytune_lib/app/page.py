"""Notebooks as web pages that load nothing: math is MathML, pictures and players lie inside."""

import base64
import copy
import gzip
import json
import re
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from easytune_lib.app.notebook import find_notebooks, read_notebook, title

PLOTLY = "application/vnd.plotly.v1+json"
"""A plotly figure as data, as notebooks keep it."""

HEAVY = 3_000_000
"""Bytes that a page has at most."""

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem;
       color: #111; background: #fff; }
li { margin: 1rem 0; } pre { overflow-x: auto; } img { max-width: 100%; }
a.anchor-link { display: none; } td, th { padding: 0 .5rem; text-align: left; }
small, p { color: #444; } h1 { line-height: 1.2; }
@media (prefers-color-scheme: dark) { body { color: #eee; background: #111; } a { color: #8cf; }
       small, p { color: #bbb; } }
"""
_LINK = re.compile(r'(href="[^":/#?]+)\.ipynb([#"])')
_SCRIPT = re.compile(r"<script\b[^>]*\bsrc\s*=[^>]*>\s*</script>", re.IGNORECASE)
_MATHJAX = re.compile(r"<script type=\"text/x-mathjax-config\">.*?</script>", re.DOTALL)
_IMPORT = re.compile(r"\bimport\s*\(?\s*[\"']https?:|\bfrom\s+[\"']https?:")
_UNPACK = """
const plotly = (async () => {
  const packed = Uint8Array.from(atob("%s"), (c) => c.charCodeAt(0));
  const plain = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(plain).text();
  document.head.append(script);
  return globalThis.Plotly;
})();
"""
_MODULE = re.compile(r"<script type=\"module\">.*?</script>", re.DOTALL)


def page(notebook: Any) -> str:
    """An executed notebook (of nbformat) as one HTML page that needs no network.

    Formulas become MathML, which browsers draw themselves. Scripts that nbconvert would load from
    elsewhere (MathJax, RequireJS, Mermaid) are left out; those within outputs, such as the motion
    player, stay. Figures that are kept as plotly's data are drawn by plotly's script, which then
    lies in the page once, packed: 2 MB. Links to other notebooks lead to their pages.
    """
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(
        embed_images=True, mathjax_url="", require_js_url="", jquery_url="", mermaid_js_url="",
        filters={"markdown2html": markdown},
    )  # fmt: skip
    made, _ = exporter.from_notebook_node(_with_plotly(notebook))
    made = _MATHJAX.sub("", _SCRIPT.sub("", made))
    made = _MODULE.sub(lambda found: "" if _IMPORT.search(found[0]) else found[0], made)
    return _LINK.sub(r"\1.html\2", made)


def markdown(source: str) -> str:
    """Markdown as HTML, pictures of its cell embedded, formulas as MathML."""
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    class Renderer(IPythonRenderer):
        """nbconvert's, but for math."""

        def inline_math(self, body: str) -> str:
            return math(body)

        def block_math(self, body: str) -> str:
            return math(body, block=True)

        def latex_environment(self, name: str, body: str) -> str:
            return math(rf"\begin{{{name}}}{body}\end{{{name}}}", block=True)

    return MarkdownWithMath(renderer=Renderer(escape=False, embed_images=True)).render(source)


def plain_page(name: str, body: str) -> str:
    """A page of our own around some HTML, light or dark as the browser is."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(name)}</title><style>{_STYLE}</style></head><body>{body}</body></html>\n"
    )


def _with_plotly(notebook: Any) -> Any:
    """A notebook whose plotly figures are HTML, the first with the script that draws all."""
    notebook = copy.deepcopy(notebook)
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", ())]
    figures = [out.data for out in outputs if PLOTLY in out.get("data", ())]
    for place, data in enumerate(figures):
        drawn, name = data.pop(PLOTLY), f"plotly-{place}"
        spec = json.dumps([drawn.get("data", []), drawn.get("layout", {})], separators=(",", ":"))
        spec = re.sub("[<>&]", lambda match: f"\\u{ord(match[0]):04x}", spec)
        data["text/html"] = (
            f'<div id="{name}"></div><script>{_plotly() if place == 0 else ""}'
            f'plotly.then((p) => p.newPlot("{name}", ...{spec}, {{responsive: true}}));</script>'
        )
    return notebook


def _plotly() -> str:
    """Plotly's script as a promise of it, at a third of its size."""
    from plotly.offline import get_plotlyjs

    packed = gzip.compress(get_plotlyjs().encode(), mtime=0)
    return _UNPACK % base64.b64encode(packed).decode()


def math(formula: str, block: bool = False) -> str:
    """TeX as MathML; what cannot be read stays as it is written."""
    from latex2mathml.converter import convert

    try:
        made = convert(formula.strip(), display="block" if block else "inline")
    except Exception:  # the library has no class of its own for what it cannot read
        return f"<code>{escape(formula)}</code>"
    return made.replace(' xmlns="http://www.w3.org/1998/Math/MathML"', "")  # HTML knows it


def write_site(root: Path, folder: Path, sources: Mapping[str, Path] | None = None) -> list[Path]:
    """Export all notebooks, with the outputs that are stored in them, and a contents page.

    Args:
        root: The repository.
        folder: Where to.
        sources: Other notebooks by the names of their pages, in place of the repository's.

    Returns:
        The pages, the contents first.

    Raises:
        ValueError: A page is heavier than :data:`HEAVY`; says which.
    """
    import nbformat

    from easytune_lib.storage import write_atomic

    books = root / "notebooks"
    sources = sources or {
        p.relative_to(books).with_suffix("").as_posix(): p for p in find_notebooks([], root)
    }
    pages, rows = [], []
    for name, path in sources.items():
        content = page(nbformat.read(path, as_version=4)).encode()
        if len(content) > HEAVY:
            raise ValueError(
                f"the page of {path.name} has {len(content) / 1e6:.1f} MB, at most "
                f"{HEAVY / 1e6:g} are allowed: show fewer motions in it"
            )
        pages.append(write_atomic(folder / f"{name}.html", content))
        rows.append(
            f'<li><a href="{escape(name)}.html">{escape(title(read_notebook(path)) or name)}</a>'
            f"<br>{_sentence(path)} <small>{escape(name)}</small></li>"
        )
    contents = plain_page(
        "EasyTune Workbench",
        "<h1>EasyTune Workbench</h1><p>Each page is a notebook with its results; none of them "
        f"needs a network.</p><ol start='0'>{''.join(rows)}</ol>",
    )
    return [write_atomic(folder / "index.html", contents.encode()), *pages]


def _sentence(path: Path) -> str:
    """What a notebook says of itself in one sentence."""
    for cell in read_notebook(path)["cells"]:
        if found := re.search(r"\*\*In one sentence:\*\* (.+)", cell["source"]):
            plain = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", found[1])
            parts = re.split(r"\$([^$]+)\$", plain.replace("**", "").replace("`", ""))
            return "".join(math(p) if i % 2 else escape(p) for i, p in enumerate(parts))
    return ""
