"""``poolax report``: the page of records, as text, and as a browser shows it."""

import base64
import copy
import gzip
import html.parser
import json
import os
import pathlib
import re
import webbrowser

import pytest
from browsing import LOOKS, barriers, chromium, opened

from poolax import cli
from poolax.records import Records
from poolax.reporting import report_page

HOSTILE = "</script><img src=x onerror=alert(1)> & *b* | `c` \u202e[d](http://e)"
VERSIONS = {"poolax": "0.1.0"}
MADE_WITH = {"command": "poolax quickstart --out 'a b'", "versions": VERSIONS, "devices": "1 x cpu"}
ADVICE = pathlib.Path(__file__).parents[1] / "experiments" / "results" / "advice" / "advice.jsonl"


def heads(task="classification", dataset="digits"):
    """Heads of three poolers and two seeds: one is the best, two are alike."""
    for pooler, share in (("avg", 5), ("sum", 5), (HOSTILE, 10)):
        for seed in range(2):
            scores = [float(place % share != seed) for place in range(60)]
            yield {
                "kind": "head", "id": f"{dataset}{task}{pooler}{seed}", "task": task,
                "metric": "accuracy", "higher_is_better": True, "pooler": pooler,
                "resolved": {"name": "avg", "options": {}}, "learning_rate": 1e-3, "seed": seed,
                "validation": 1 - 1 / share, "test": sum(scores) / 60, "diverged": False,
                "dataset": dataset, "model": HOSTILE, "baseline": 0.5, "test_scores": scores,
                "validation_score": [0.5, 0.6, 0.7], **MADE_WITH,
            }  # fmt: skip


def others():
    """A record of each of some other kinds, one of them unknown."""
    curve = {"epsilon": [0.0, 1.0, 2.0], "mean": [0.0, 0.5, 1.0], "low": [0.0, 0.4, 0.9]}
    yield {
        "kind": "noise_curve", "id": "n", "pooler": "avg", "head": "h", **curve,
        "high": [0.0, 0.6, 1.1], "num_inputs": 8, **MADE_WITH,
    }  # fmt: skip
    yield {
        "kind": "lipschitz", "id": "l", "pooler": "avg", "attention": "dot", "num_tokens": 4,
        "width": 8, "radius": 1.0, "num_inputs": 8, "measured_real": 2.0, "measured_adversarial": 3.0,
        "local": 4.0, "tight": 5.0, "sharp": 50.0, "published": 1e4, "metric": "accuracy", "test": 0.9,
        **MADE_WITH,
    }  # fmt: skip
    yield {
        "kind": "bounds", "pooler": "avg", "attention": "dot", "num_tokens": [4, 4], "dim": 8,
        "radius": 1.0, "spread": 1.0, "published": 90.0, "log10_published": 1.95, "sharp": 9.0,
        "log10_sharp": 0.95, "tight": 8.0, "log10_tight": 0.9,
    }  # fmt: skip
    yield {"kind": HOSTILE, "id": "u", HOSTILE: HOSTILE, "number": 12345.678, "part": {"of": True}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run with an advice, heads of two tasks and other records, and a page of it."""
    folder = tmp_path_factory.mktemp("run")
    rows = [*heads(), *heads(task="<b>other</b>"), *others()]
    Records(rows).write_as(folder / "records.jsonl")
    (folder / "below").mkdir()
    advice = Records.read(ADVICE)[0] | {"model": HOSTILE}
    Records([advice]).write_as(folder / "below" / "advice.jsonl")
    page = report_page(folder)
    (folder / "report.html").write_text(page.html)
    return folder, page, rows


class Elements(html.parser.HTMLParser):
    """Tags with their attributes, and the text outside of scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def named(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def test_the_recommendation_comes_first_and_all_kinds_are_shown(folder):
    _, page, rows = folder
    advice = Records.read(ADVICE)[0]
    assert page.headline == advice["sentence"]
    assert page.num_records == len(rows) + 1
    assert not page.remarks
    headings = re.findall(r"<h[123][^>]*>(.*?)</h", page.html)
    assert headings[:2] == [advice["sentence"], "What it stands on"]
    assert [heading for heading in headings[2:] if "Records of kind" not in heading] == [
        *("records.jsonl", "What validation chose", "Scores", "Training", "Noise"),
        *("Lipschitz constants", "Bounds", "How it was made", "records.jsonl", "below/advice.jsonl"),
        "Files",
    ]
    assert len(headings) == 14
    text = Elements(page.html).text
    assert advice["reasons"][0] in text
    assert "poolax quickstart --out 'a b'" in text
    assert "12346" in text


def test_what_is_said_of_heads_is_what_their_records_hold(folder):
    *_, rows = folder
    html = Elements(folder[1].html)
    # 54 of 60 right with both seeds, 48 of 60 of the others.
    assert "90.00 ± 0.00" in html.text
    assert "80.00 ± 0.00" in html.text
    saved = {row["download"]: row["href"] for row in html.named("a") if "download" in row}
    assert set(saved) >= {"records.jsonl.gz", "below-advice.jsonl.gz", "All-scores.csv"}
    kind, _, content = saved["records.jsonl.gz"].partition(";base64,")
    assert kind == "data:application/gzip"
    found = map(json.loads, gzip.decompress(base64.b64decode(content)).decode().splitlines())
    kept = [{key: value for key, value in row.items() if key != "test_scores"} for row in rows]
    assert list(found) == kept


def test_texts_of_records_are_texts_in_the_page(folder):
    _, page, _ = folder
    html = Elements(page.html)
    assert len(html.named("script")) == 1
    assert not html.named("img")
    assert "<b>other</b>" in html.text
    assert "</script><img src=x onerror=alert(1)> & *b* | `c` \\u202e[d](http://e)" in html.text
    assert "\u202e" not in page.html
    addresses = re.findall(r'(?:href|src|action)="([^"]*)"', page.html)
    assert all(address.startswith(("#", "data:")) for address in addresses)
    identifiers = [row["id"] for _, row in html.tags if row.get("id")]
    assert len(identifiers) == len(set(identifiers))
    assert {address[1:] for address in addresses if address.startswith("#")} <= set(identifiers)
    assert len(page.html.encode()) < 3_000_000


def run(capsys, *arguments):
    code = cli.main(["report", *map(os.fspath, arguments)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_a_file_of_records_gives_a_page_beside_it(tmp_path, capsys):
    path = tmp_path / "bounds.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*others()][2:]))
    code, out, err = run(capsys, path, "--json")
    assert (code, err) == (cli.COMPLETE, "")
    assert json.loads(out) == {
        "kind": "report", "page": str(tmp_path / "bounds.html"), "num_records": 2, "remarks": [],
        "headline": "Records of bounds.jsonl",
    }  # fmt: skip
    assert "Bounds of blocks and heads" in (tmp_path / "bounds.html").read_text()
    code, out, err = run(capsys, path, "--out", tmp_path / "other.html")
    assert (code, err) == (cli.COMPLETE, "")
    assert out == f"Records of bounds.jsonl\nPage: {tmp_path / 'other.html'}\n"
    assert (tmp_path / "other.html").read_bytes() == (tmp_path / "bounds.html").read_bytes()


def test_the_page_is_shown_where_that_is_asked_for(tmp_path, capsys):
    path = tmp_path / "a b.jsonl"
    path.write_text(json.dumps([*others()][3]) + "\n")
    shown = tmp_path / "browser"
    shown.write_text(f"#!/bin/sh\nprintf %s \"$1\" > '{tmp_path}/address'\n")
    shown.chmod(0o755)
    webbrowser.register("shown", None, webbrowser.GenericBrowser([str(shown), "%s"]), preferred=True)
    code, out, err = run(capsys, path, "--open")
    assert (code, err) == (cli.COMPLETE, "")
    assert (tmp_path / "address").read_text() == (tmp_path / "a b.html").as_uri()
    assert out.startswith("Records of a b.jsonl\n")


def test_no_records_are_a_matter_of_usage(tmp_path, capsys):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "reviews.jsonl").write_text('{"text": "good", "label": 1}\n')
    (tmp_path / "empty").mkdir()
    for name, told in (
        ("empty", r"expected a folder with records \(\*.jsonl\), got one without"),
        ("none", "expected a folder with records, got none of that name"),
        ("own", "expected records of poolax, got files without any"),
    ):
        code, out, err = run(capsys, tmp_path / name)
        assert (code, out) == (cli.USAGE, "")
        assert re.fullmatch(rf"poolax: .*{name}: {told}\n", err)
        assert not list(tmp_path.rglob("*.html"))


def test_what_cannot_be_read_is_named_and_the_rest_is_used(tmp_path, capsys, caplog):
    rows = [*others()][2:]
    good = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "a.jsonl").write_text(good + '{"kind": "bounds", "poo')
    newer = copy.deepcopy(rows[0]) | {"dim": "wide", "versions": {"poolax": "9.1.0"}}
    (tmp_path / "b.jsonl").write_text(json.dumps(newer) + "\n")
    (tmp_path / "c.jsonl").write_text('{"text": "good"}\n')
    code, out, err = run(capsys, tmp_path)
    assert code == cli.COMPLETE
    assert not caplog.records  # told once
    page = (tmp_path / "report.html").read_text()
    for told in (
        "a.jsonl: line 3 is cut off, and left out",
        "b.jsonl, line 1: dim: expected a whole number, got wide, in a record of kind 'bounds', "
        "written by poolax 9.1.0 (this is ",
        "c.jsonl: 1 lines are no records of poolax, and left out",
    ):
        assert told in err
        assert told in Elements(page).text
    # Alone it is refused, as any damaged file.
    code, out, err = run(capsys, tmp_path / "b.jsonl")
    assert (code, out) == (cli.FAILURE, "")
    assert "written by poolax 9.1.0" in err


def test_what_cannot_be_compared_is_told(tmp_path, capsys):
    rows = [*heads()]
    twice = {**rows[0], "id": "other"}
    Records([*rows, twice]).write_as(tmp_path / "records.jsonl")
    code, _, err = run(capsys, tmp_path)
    assert code == cli.COMPLETE
    assert "records.jsonl: Scores: records: expected each head once, got 'avg'" in err
    assert "Not shown: records: expected each head once" in Elements(
        (tmp_path / "report.html").read_text()
    ).text.replace("\n", " ")


def test_a_record_in_two_files_counts_once(tmp_path):
    rows = [*heads()]
    Records(rows).write_as(tmp_path / "records.jsonl")
    short = [{key: value for key, value in row.items() if key != "test_scores"} for row in rows]
    Records(short).write_as(tmp_path / "published.jsonl")
    page = report_page(tmp_path)
    assert page.num_records == len(rows)
    assert page.headline == f"Validation chose {HOSTILE}: better beyond noise than every other pooler."


@pytest.mark.slow
def test_large_tables_are_cut_before_a_page_is_too_large(tmp_path):
    fields = {f"field {place}": f"{place} word " * 40 for place in range(12)}
    Records([{"kind": "own", "number": row} | fields for row in range(1001)]).write_as(
        tmp_path / "records.jsonl"
    )
    page = report_page(tmp_path)
    assert len(page.html.encode()) < 3_000_000
    assert "The first 250 of 1,001 rows; the others are in the file." in page.html
    assert page.html.count("<tr>") == 251
    assert not page.remarks


@pytest.mark.slow
def test_all_stored_records_fit_in_a_page():
    page = report_page(ADVICE.parents[1])
    assert len(page.html.encode()) < 3_000_000
    assert not page.remarks
    assert page.html.count("<svg") > 20
    assert page.html.count("data:application/gzip") >= 8
    # What is drawn has its style by classes alone, each of which stands once in the page.
    defined = re.findall(r"\.(part-[\d-]+-s\d+)\{", page.html)
    used = re.findall(r'class="(part-[^"]+)"', page.html)
    assert len(set(defined)) == len(defined)
    assert set(used) == set(defined)
    names = re.findall(r' id="([^"]*)"', page.html)
    assert len(set(names)) == len(names)
    assert set(re.findall(r'(?:href="|url\()#(part-[\d-]+)', page.html)) <= set(names)


@pytest.mark.slow
def test_tables_and_figures_are_written_by_themselves(folder, tmp_path, capsys):
    code, out, err = run(capsys, folder[0], "--files", tmp_path, "--out", tmp_path / "page.html")
    assert (code, err) == (cli.COMPLETE, "")
    assert out.endswith(f"Tables and figures: {tmp_path}\n")
    kinds = {}
    for path in tmp_path.glob("records-*"):
        kinds.setdefault(path.stem, set()).add(path.suffix)
    drawn, told = {".png", ".pdf", ".svg"}, {".md", ".tex", ".csv"}
    assert kinds["records-scores"] == kinds["records-lipschitz-constants"] == told
    assert kinds["records-scores-test-scores"] == drawn
    assert {frozenset(found) for found in kinds.values()} == {frozenset(drawn), frozenset(told)}
    page = " ".join(Elements(folder[1].html).text.split())
    assert [name for name in kinds if name.startswith("records-noise")]
    assert "90.00 ± 0.00" in page
    assert "90.00 ± 0.00" in (tmp_path / "records-scores.md").read_text()


OUTSIDE = """() => [...document.querySelectorAll("body *")]
  .filter((one) => !one.closest(".scroll, .skip") && one.getBoundingClientRect().right > innerWidth + 1)
  .map((one) => one.outerHTML.slice(0, 100))"""


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_the_page_in_a_browser(folder, browser, width, scheme, tmp_path):
    path = folder[0] / "report.html"
    tab, noted = opened(
        browser, path.as_uri(), viewport={"width": width, "height": 900}, color_scheme=scheme
    )
    assert noted == []
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert tab.evaluate(OUTSIDE) == []
    ground = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    numbers = [int(number) for number in re.findall(r"\d+", ground)]
    assert min(numbers) > 200 if scheme == "light" else max(numbers) < 60
    tab.screenshot(path=tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 20_000
    tab.context.close()


@pytest.mark.parametrize(("width", "scheme"), [LOOKS[1], LOOKS[2]])
def test_nothing_keeps_anybody_from_the_page(folder, browser, width, scheme):
    tab, _ = opened(
        browser,
        (folder[0] / "report.html").as_uri(),
        viewport={"width": width, "height": 900},
        color_scheme=scheme,
    )
    # What is folded is looked at as well.
    tab.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert barriers(tab) == []
    tab.context.close()


def test_tables_are_sorted_and_filtered_by_keyboard(folder, browser, tmp_path):
    path = folder[0] / "report.html"
    tab, noted = opened(browser, path.as_uri())
    grid = tab.locator("[data-grid]").first
    heading = grid.get_by_role("button", name="test", exact=True)

    def scores():
        place = grid.locator("thead th").all_inner_texts().index("test")
        shown = grid.locator("tbody tr:not([hidden])").all()
        return [float(row.locator("td").nth(place).inner_text()) for row in shown]

    before = scores()
    assert before == [0.8, 0.8, 0.9] * 2
    heading.focus()
    tab.keyboard.press("Enter")
    assert scores() == sorted(before)
    tab.keyboard.press("Enter")
    assert scores() == sorted(before, reverse=True)
    assert grid.locator("th[aria-sort=descending]").count() == 1
    grid.get_by_role("searchbox").fill("SUM other")
    assert scores() == [0.8]
    assert grid.locator("output").inner_text() == "1 of 6 rows"
    with tab.expect_download() as waited:
        tab.get_by_role("link", name="records.jsonl.gz").click()
    waited.value.save_as(tmp_path / "saved.gz")
    saved = gzip.decompress((tmp_path / "saved.gz").read_bytes()).decode().splitlines()
    assert len(saved) == len(folder[2])
    assert noted == []
    tab.context.close()
    # Without scripts all rows are there, and nothing that does not work.
    tab, noted = opened(browser, path.as_uri(), java_script_enabled=False)
    assert tab.locator("[data-grid] tbody tr").count() > 6
    assert tab.locator("button, input").count() == 0
    assert noted == []
    tab.context.close()
