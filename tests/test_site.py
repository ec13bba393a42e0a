"""The site: what is generated is what records and code give, and every block of its pages can be read."""

import ast
import functools
import http.server
import importlib
import json
import pathlib
import re
import subprocess
import threading

import pytest
import test_public
from browsing import LOOKS, barriers, chromium, opened

from poolax.records import check_record, json_schemas

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "poolax" / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "node_modules" not in path.parts)
# Imported by a package for itself, without an alias that hands it on.
NOT_EXPORTED = {"data.vision": {"Entry"}}
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


@pytest.fixture
def reference(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS / "_site"))
    return importlib.import_module("reference")


def test_every_public_name_is_in_the_reference(reference):
    pages = reference.pages()
    for name in test_public.MODULES:
        exported = [
            public for public, _ in test_public.public(importlib.import_module(f"poolax.{name}"))
        ]
        shown = re.findall(r"^::: ([\w.]+)$", pages[f"reference/{name}.md"], re.MULTILINE)
        # Those that a package imports for itself alone are no part of it.
        missing = {f"poolax.{name}.{one}" for one in exported} - set(shown)
        assert missing <= {f"poolax.{name}.{one}" for one in NOT_EXPORTED.get(name, ())}, name


def stored():
    """The records of each file of results, by their kinds."""
    for path in sorted((ROOT / "experiments" / "results").rglob("*.jsonl")):
        found = {}
        for line in path.read_text().splitlines():
            row = json.loads(line)
            found.setdefault(row["kind"], []).append(row)
        yield from found.values()


def test_schemas_of_records_say_what_is_checked(monkeypatch, reference):
    jsonschema = pytest.importorskip("jsonschema")
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    of_scripts = importlib.import_module("record_kinds").schemas()
    shown = re.findall(r"^## (.+)$", reference.pages()["reference/record_kinds.md"], re.MULTILINE)
    schemas = json_schemas()
    assert set(shown) == set(schemas)
    assert {"bounds_inputs", "benchmark", "regularize", "pretrained"} <= set(of_scripts) < set(schemas)
    seen = set()
    for schema in schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema)
    for rows in stored():
        row = rows[0]
        # All that is stored is of a kind that is declared, and as it has to be.
        assert row["kind"] in schemas
        seen.add(row["kind"])
        for each in rows:
            check_record(each)
        validator = jsonschema.Draft202012Validator(schemas[row["kind"]])
        validator.validate(row)
        check_record(row)
        for name in schemas[row["kind"]]["required"][1:]:
            without = {field: value for field, value in row.items() if field != name}
            for wrong in (without, row | {name: {"of": [b"no JSON".hex()]}}):
                refused = not validator.is_valid(wrong)
                try:
                    check_record(wrong)
                except ValueError:
                    assert refused, (row["kind"], name)
                else:
                    assert not refused, (row["kind"], name)
    assert len(seen) > 10


@pytest.fixture(scope="module")
def site():
    """The address of the site, which is built before the tests."""
    folder = ROOT / "build" / "site"
    if not (folder / "index.html").exists():
        pytest.skip("no site here: mkdocs build --strict -f poolax/docs/mkdocs.yml")
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("localhost", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://localhost:{server.server_port}/"
        server.shutdown()
        thread.join()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


MAIN_PAGES = ("", "tutorial/", "command_line/", "results/", "theory/", "reference/bounds/")


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_main_pages_in_a_browser(site, width, scheme):
    """No request to another place, nothing beside the page, nothing that keeps anybody from it."""
    options = {"viewport": {"width": width, "height": 900}, "color_scheme": scheme}
    with chromium() as browser:
        for page in MAIN_PAGES:
            tab, noted = opened(browser, site + page, **options)
            tab.wait_for_load_state("networkidle")
            assert [one for one in noted if not one.startswith(site)] == [], page
            assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth"), page
            ground = tab.evaluate("getComputedStyle(document.body).backgroundColor")
            numbers = [int(number) for number in re.findall(r"\d+", ground)[:3]]
            assert min(numbers) > 200 if scheme == "light" else max(numbers) < 60, page
            assert barriers(tab) == [], page
            tab.context.close()
