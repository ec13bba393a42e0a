"""Pages in Debian's Chromium, by Playwright's client, and what keeps anybody from them, by axe-core."""

import contextlib
import json
import os
import pathlib
import shutil

import pytest

AXE = pathlib.Path(__file__).parents[1] / ".ci" / "node_modules" / "axe-core" / "axe.min.js"
LOOKS = [(width, scheme) for width in (390, 1440) for scheme in ("light", "dark")]
_FOUND = """;axe.run(document, {resultTypes: ["violations"]}).then((found) => JSON.stringify(
  found.violations.filter((one) => ["serious", "critical"].includes(one.impact))
    .map((one) => [one.id, one.nodes[0].html.slice(0, 200)])))"""


@contextlib.contextmanager
def chromium():
    """The browser; without one the test is left out."""
    api = pytest.importorskip(
        "playwright.sync_api", reason="no playwright here: pip install .[browser]"
    )
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("no chromium here: apt install chromium")
    with (
        api.sync_playwright() as playwright,
        # Root has no sandbox.
        playwright.chromium.launch(executable_path=path, args=["--no-sandbox"]) as browser,
    ):
        yield browser


def opened(browser, address, **options):
    """A tab with a page, and what it has said and asked for beyond what stands at its address."""
    context = browser.new_context(**options)
    tab, noted = context.new_page(), []

    def note(text):
        if not text.startswith((address, "data:")):
            noted.append(text)

    tab.on("console", lambda message: note(message.text))
    tab.on("pageerror", lambda error: note(str(error)))
    tab.on("request", lambda request: note(request.url))
    tab.goto(address)
    return tab, noted


def barriers(tab):
    """What axe-core calls serious or critical: rules, each with an element that breaks it."""
    axe = pathlib.Path(os.environ.get("AXE_CORE", AXE))
    if not axe.is_file():
        pytest.skip("no axe-core here: npm install --prefix .ci axe-core, or AXE_CORE=axe.min.js")
    # A page may allow no script but its own.
    asked = {"expression": axe.read_text() + _FOUND, "awaitPromise": True, "returnByValue": True}
    found = tab.context.new_cdp_session(tab).send("Runtime.evaluate", asked)
    return json.loads(found["result"]["value"])
