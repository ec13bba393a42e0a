"""What MkDocs asks for while it builds the site: pages, and which of them stand in the menu."""

import logging
import pathlib
from collections.abc import Mapping
from typing import Any

import citations
import formulas
import reference
import results
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

DOCS = pathlib.Path(__file__).parents[1]
PACKAGE = DOCS.parent
_SEARCH = 'data-md-component="search" role="dialog"'
_LOG = logging.getLogger("mkdocs.hooks.site")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Ask for the style of formulas, where they can be set."""
    if formulas.is_there():
        config.extra_css.append(formulas.STYLE)
    else:
        _LOG.info("formulas are shown as TeX: %s", formulas.__doc__)
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Hand over the pages beside ``mkdocs.yml``, and make the menu of those that are there."""
    for name, path in _files_beside().items():
        files.append(File.generated(config, name, abs_src_path=str(path)))
    for name, text in (reference.pages() | results.pages()).items():
        files.append(File.generated(config, name, content=text))
    config.nav = menu(config.nav, [file.src_uri for file in files.documentation_pages()])
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """Link what the theory cites of itself."""
    if not page.file.src_uri.startswith("theory/"):
        return markdown
    return citations.linked(
        markdown, citations.IN_THEORY, lambda section: f"({section.page}.md#{section.anchor})"
    )


def on_page_content(html: str, **_: Any) -> str:
    """Keep a mean and its deviation on one line."""
    return html.replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}")


def on_post_page(output: str, *, page: Page, **_: Any) -> str:
    """Set the formulas, after the search has read them as TeX; the search's window says what it is."""
    output = output.replace(_SEARCH, f'{_SEARCH} aria-label="Search"')
    return formulas.with_formulas(output, page.file.src_uri)


def menu(entries: Any, pages: list[str]) -> list[Any]:
    """The entries of a menu whose pages are there, folders replaced by the pages in them."""
    found = []
    for entry in entries:
        if isinstance(entry, str):  # by the title of the page
            found += [entry] if entry in pages else []
            continue
        ((title, target),) = entry.items()
        if isinstance(target, list):
            below = menu(target, pages)
        elif target.endswith("/"):
            inside = [page for page in pages if page.startswith(target)]
            # The page called index is that of the folder itself.
            below = sorted(inside, key=lambda page: (not page.endswith("/index.md"), page[:-3]))
        else:
            below = target if target in pages else []
        if below:
            found.append({title: below})
    return found


def _files_beside() -> Mapping[str, pathlib.Path]:
    found = {"changelog.md": PACKAGE / "CHANGELOG.md"} | results.downloads()
    if formulas.is_there():
        found |= formulas.assets()
    for path in sorted(DOCS.rglob("*")):
        name = path.relative_to(DOCS).as_posix()
        is_page = path.suffix == ".md" or name.startswith("figures/")
        if path.is_file() and is_page and not name.startswith("assets/"):
            found[name] = path
    return found
