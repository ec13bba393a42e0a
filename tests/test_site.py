"""The site: what is generated is what records and code give, and every block of its pages can be read."""

import ast
import importlib
import pathlib
import re
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "poolax" / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "node_modules" not in path.parts)
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_generated_sections_are_what_the_records_give(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    summary, tables = map(importlib.import_module, ("summary", "site_tables"))
    for name, make in tables.PAGES.items():
        page = DOCS / name
        assert page.read_text() == summary.with_section(page, make(ROOT / "experiments" / "results")), (
            name
        )


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(DOCS).as_posix())
def test_every_block_of_code_can_be_read(page):
    """Also of those blocks that ask for more than there is, and so are never run."""
    for language, text in _BLOCK.findall(page.read_text()):
        if language == "python":
            ast.parse(text, str(page))
        elif language in ("sh", "bash"):
            done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True)
            assert not done.stderr, (page.name, text)
