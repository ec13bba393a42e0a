"""Formulas are set while the site is built, by KaTeX, so that pages need no script for them.

KaTeX is not among what pip installs: ``npm install --prefix build/npm katex@0.19.1`` puts it where it
is looked for. Without it, formulas are shown as the TeX that they are written in.
"""

import html
import json
import logging
import pathlib
import re
import shutil
import subprocess

KATEX = pathlib.Path(__file__).parents[3] / "build" / "npm" / "node_modules" / "katex" / "dist"
#: Where its style stands in the site.
STYLE = "katex/katex.min.css"

_FORMULA = re.compile(
    r'<(span|div) class="arithmatex">\s*\\(?:\((?P<inline>.*?)\\\)|\[(?P<alone>.*?)\\\])\s*</\1>',
    re.DOTALL,
)
_LOG = logging.getLogger("mkdocs.hooks.formulas")


def is_there() -> bool:
    """Whether formulas can be set."""
    return (KATEX / "katex.js").exists() and shutil.which("node") is not None


def assets() -> dict[str, pathlib.Path]:
    """The files that pages with formulas need, by where they stand in the site."""
    fonts = sorted((KATEX / "fonts").glob("*.woff2"))
    return {STYLE: KATEX / "katex.min.css"} | {f"katex/fonts/{font.name}": font for font in fonts}


def with_formulas(page: str, name: str) -> str:
    """A page of HTML with its formulas set.

    Args:
        page: The page.
        name: What it is called in warnings about formulas that KaTeX does not understand.

    Returns:
        The page.
    """
    found = list(_FORMULA.finditer(page))
    given = [(_tex(match), match["alone"] is not None) for match in found]
    if not found or not is_there():
        return _FORMULA.sub(lambda match: f"<code>{html.escape(_tex(match))}</code>", page)
    program = pathlib.Path(__file__).with_suffix(".js")
    done = subprocess.run(
        ["node", str(program), str(KATEX / "katex.js")],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        check=True,
    )
    made = json.loads(done.stdout)
    for (tex, _), one in zip(given, made, strict=True):
        if "error" in one:
            _LOG.warning("%s: %s, in the formula %r", name, one["error"], tex)
    texts = iter(made)
    return _FORMULA.sub(lambda match: _block(match[1], next(texts).get("html", _tex(match))), page)


def _tex(match):
    return html.unescape(match["inline"] or match["alone"]).strip()


def _block(tag, made):
    return f'<{tag} class="formula">{made}</{tag}>'
