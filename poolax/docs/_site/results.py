"""Pages of results: what experiments/summary.py has made of the records, and the records themselves."""

import pathlib
import re

EXPERIMENTS = pathlib.Path(__file__).parents[3] / "experiments"
_MADE = re.compile(
    r"<!-- Written by summary.py.*?begin -->(.*)<!-- Written by summary.py.*?end -->", re.DOTALL
)
_FOUND = re.compile(r"^## What was found\n.*?(?=^## )", re.MULTILINE | re.DOTALL)
_TITLES = {"bounds": "How tight the bounds are"}
_HOW = """## All of them

All tables are made from records, which stand beside them to download, and say by which command.
Scripts are in the folder `experiments`, whose README says what each asks. Test scores are means over
seeds with their standard deviation; what validation chose is bold, the best on test, which nobody knows
before, is underlined.
"""
_RADAR = """![Test scores of poolers, an axis for each task of language](../figures/radar-language.svg)
"""


def pages() -> dict[str, str]:
    """Markdown of all pages, by where they stand."""
    results = EXPERIMENTS / "results"
    found = {
        f"results/{path.relative_to(results).as_posix()}": _titled(path.read_text(), path.stem)
        for path in sorted(results.rglob("*.md"))
    }
    parts = _MADE.search((EXPERIMENTS / "README.md").read_text())
    for part in re.split(r"^(?=## )", parts[1] if parts else "", flags=re.MULTILINE)[1:]:
        records = re.search(r"\]\(results/([\w-]+)\.jsonl\)", part)
        # The last parts only point to pages that stand here as well.
        if records:
            text = re.sub(r"^#(#+ )", r"\1", part, flags=re.MULTILINE)
            found[f"results/{records[1]}.md"] = text.replace("](results/", "](")
    links = [
        f"- [{_title(text)}]({name.removeprefix('results/')})" for name, text in sorted(found.items())
    ]
    told = _FOUND.search(parts[1]) if parts else None
    found["results/index.md"] = "\n".join(
        ["# Results\n", *([told[0]] if told else []), _RADAR, _HOW, *links, ""]
    )
    return found


def downloads() -> dict[str, pathlib.Path]:
    """Records and tidy tables, by where they stand in the site."""
    results = EXPERIMENTS / "results"
    paths = (path for path in results.rglob("*") if path.suffix in (".jsonl", ".csv"))
    return {f"results/{path.relative_to(results).as_posix()}": path for path in sorted(paths)}


def _titled(text, stem):
    """A page with a title: its own, that of its only part, or its name."""
    if text.startswith("# "):
        return text
    if len(re.findall(r"^## ", text, re.MULTILINE)) == 1:
        return text.replace("## ", "# ", 1)
    return f"# {_TITLES.get(stem, stem.replace('_', ' ').capitalize())}\n\n{text}"


def _title(text):
    return text.split("\n", 1)[0].removeprefix("# ")
