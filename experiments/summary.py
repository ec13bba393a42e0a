"""Findings in experiments/README.md, the pages in results/, tables and figures of the site.

python experiments/summary.py --take poolax-language poolax-vision    # take over finished comparisons
python experiments/summary.py            # write tables and figures
python experiments/summary.py --figures DIR    # of pretrained models and of the language tasks
python experiments/summary.py --check    # exit code 1 if they are not what the records give

Duration (estimate, two CPU cores): a minute, some more where claims have to be judged again.
"""

if __name__ == "__main__":
    from poolax.startup import take_signals

    take_signals("summary")

import dataclasses
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import advice
import advice_page
import advice_synthetic
import claims
import comparison
import data_size
import expressivity
import figures
import findings
import optimisation
import paper_table
import pretraining
import probing
import result_pages
import robustness
import sequence_length
import site_tables
import tyro
import weights
from result_pages import NORMS, PRETRAINED

from poolax.cli import COMPLETE, FAILURE, OptionalPath, run_program
from poolax.records import Records, write_atomically
from poolax.reporting import Table, plot_losses_by_size, plot_radar, plot_training_lipschitz

HERE = pathlib.Path(__file__).parent
#: Scripts whose records stand in folders of their own, with a page each.
_PROBES = (optimisation, data_size, weights, sequence_length, expressivity, robustness)
PROBES = {module.SCRIPT.name: module.SCRIPT for module in _PROBES}
BEGIN = "<!-- Written by summary.py from results/: begin -->"
END = "<!-- Written by summary.py from results/: end -->"
#: Names of records that stand in folders of their own, those of an example among them.
_OWN_FOLDERS = {*PROBES, "regularize"}
#: Files in the folder of a run that it goes on from; its results are made of them.
_WORKING = ("records.jsonl", robustness.ATTACKS)
#: Commands that stand beside a page at most.
_FEW = 3
#: Pages of the project that people see first.
FRONT_PAGES = ("README.md",)


@dataclasses.dataclass(frozen=True)
class Summary:
    """Write tables, pages and the figures of poolax/docs/figures from the records in results/.

    Attributes:
        take: Folders of finished comparisons, whose records are copied to results/ first, in place of
            those of the same models, data sets and tasks.
        check: Write nothing, and fail if the tables are not what the records give.
        figures: Folder to draw further figures of the records to.
        folder: Folder with README.md and results/.
        debug: Show where an error comes from.
    """

    resumable: ClassVar[bool] = False

    take: tuple[str, ...] = ()
    check: bool = False
    figures: OptionalPath = None
    folder: str = str(HERE)
    debug: bool = False

    def run(self) -> int:
        """Run the command and give its exit code."""
        folder = pathlib.Path(self.folder)
        for source in self.take:
            take_over(pathlib.Path(source), folder / "results")
        if self.figures is not None:
            draw(folder / "results", pathlib.Path(self.figures))
        records = [
            row for path in paper_table.read_by_paper(folder / "results") for row in Records.read(path)
        ]
        judged = [
            row for path in claims.read_by_claims(folder / "results") for row in Records.read(path)
        ]
        verdicts = claims.judged(judged, folder / "results" / "claims")
        stale = [f"results/claims/{name}" for name in claims.stale(verdicts, folder / "results/claims")]
        if not self.check:
            claims.write(verdicts, folder / "results" / "claims")
        for path, text in documents(folder, records, verdicts).items():
            if path.exists() and is_current(path, text):
                continue
            stale.append(os.path.relpath(path, folder))
            if not self.check:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, text)
        if self.check and stale:
            print(f"{', '.join(stale)}: not what the records in results/ give", file=sys.stderr)
            return FAILURE
        return COMPLETE


def documents(
    folder: pathlib.Path, records: Sequence[dict], verdicts: Sequence[dict] = ()
) -> dict[pathlib.Path, str]:
    """What is made of the records in results/: where each text stands, and the text."""
    results = folder / "results"
    readme = folder / "README.md"
    beside = paper_table.texts(records)
    tables = result_pages.tables_of(results)
    told = what_was_found(tables, verdicts, paper_table.counts(records))
    pages = {
        readme: with_section(readme, f"{told}{section(results)}"),
        **{results / name: text for name, text in result_pages.pages(results, tables).items()},
        **{results / "paper" / name: text for name, text in beside.items()},
        **front_pages(folder.parent, results / "advice" / "advice.jsonl"),
    }
    for path, script in _probed(results).items():
        own = probing.pages(script, Records.read(path))
        pages |= {path.parent / name: text for name, text in own.items()}
    documentation = folder.parent / figures.FOLDER
    if documentation.parent.exists():  # the experiments stand beside the package
        pages |= {documentation / name: text for name, text in figures.drawings(results).items()}
    for name, make in site_tables.PAGES.items():
        page = folder.parent / "poolax" / "docs" / name
        if page.exists():
            pages[page] = with_section(page, make(results))
    known = results / "advice" / advice_synthetic.RECORDS.name
    if known.exists():
        pages[known.with_suffix(".md")] = advice_synthetic.table(Records.read(known)).markdown()
    return pages


def is_current(path: pathlib.Path, text: str) -> bool:
    """Whether a file says what the records give."""
    same = figures.is_same if path.suffix == ".svg" else str.__eq__
    return same(path.read_text(), text)


def front_pages(root: pathlib.Path, advices: pathlib.Path) -> dict[pathlib.Path, str]:
    """The pages that people see first, with what was recommended, where there are such."""
    pages = [root / name for name in FRONT_PAGES if (root / name).exists()]
    if not pages or not advices.exists():
        return {}
    # Of models that others published; the page of advices has all.
    rows = [row for row in Records.read(advices) if not row["case"].startswith("series-")]
    table = advice_page.overview(advice.in_order(rows))
    return {path: with_section(path, f"{table}\n") for path in pages}


def _probed(results: pathlib.Path) -> dict[pathlib.Path, probing.Script]:
    """Files of records of scripts that look into heads."""
    paths = {results / name / f"{name}.jsonl": script for name, script in PROBES.items()}
    return {path: script for path, script in paths.items() if path.exists()}


def take_over(source: pathlib.Path, results: pathlib.Path) -> None:
    """Copy the records of a finished run, in place of earlier ones of the same models and tasks.

    Of pretraining in place of earlier ones of the same preset, seed, steps and data, and norms over
    training in place of those of a run of the same name.
    """
    norms = pretraining.norms_of(source)
    if norms:
        _replace(results / NORMS, norms)
    found = [path for path in source.glob("*.jsonl") if path.name not in _WORKING]
    if norms and not found:
        return
    if len(found) != 1:
        raise ValueError(f"take: expected the folder of a finished comparison, got {source}")
    folder = results / found[0].stem if found[0].stem in _OWN_FOLDERS else results
    target, new = folder / found[0].name, Records.read(found[0])
    if target.name == PRETRAINED:
        curve = Records.read(source / "records.jsonl").where(kind="pretraining")
        new = [pretraining.published(row, curve) for row in new]
    _replace(target, new)


def _replace(target: pathlib.Path, new: Sequence[dict]) -> None:
    """Write records in place of those that stand for the same."""
    tasks = set(map(_taken_by, new))
    others = [row for row in Records.read(target) if _taken_by(row) not in tasks]
    target.parent.mkdir(parents=True, exist_ok=True)
    Records([*new, *others]).write_as(target)


def draw(results: pathlib.Path, out: pathlib.Path) -> None:
    """Draw what is best seen: GPT-2s by their size, norms over training, language tasks as in Figure 1.

    Raises:
        ValueError: if there are records of none.
    """
    sizes = pretraining.by_attention(Records.read(results / PRETRAINED))
    norms = pretraining.norms_by_run(Records.read(results / NORMS))
    heads = Records.read(results / "language.jsonl")
    if not sizes and not norms and not comparison.has_radar(heads):
        raise ValueError(
            f"figures: expected records of GPT-2s or language tasks in {results}, got none"
        )
    out.mkdir(parents=True, exist_ok=True)
    if sizes:
        plot_losses_by_size(sizes, out / "pretrained-sizes.png")
    if norms:
        plot_training_lipschitz(norms, out / "pretrained-lipschitz.png")
    if comparison.has_radar(heads):
        plot_radar(heads, out / "language-radar.png")


def _taken_by(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a record stands for: the newest with the same is kept."""
    if row["kind"] == "pretrained":
        return row["preset"], row["seed"], row["steps"], tuple(row["data"])
    if row["kind"] == "pretraining":
        return (row["name"],)
    if row["kind"] == "regularize":
        return row["pooler"], row["attention"], row["way"]
    return comparison.model_of(row), row["dataset"], row["task"]


def section(results: pathlib.Path) -> str:
    """The pages of results, each with its command, in Markdown."""
    parts = [
        _entry(title, f"results/{name}", listed)
        for name, (title, listed) in result_pages.commands(results).items()
    ]
    for path, script in _probed(results).items():
        listed = comparison.commands(Records.read(path))
        parts.append(_entry(script.title, f"results/{script.name}/{script.name}.md", listed))
    beside = ("The paper's values beside ours", "results/paper/paper.md", "paper_table.py")
    claimed = ("What becomes of the claims", "results/claims/claims.md", "claims.py")
    for title, page, name in (beside, claimed):
        parts.append(_entry(title, page, [f"python experiments/{name}"]))
    return "\n".join(["## Results\n", *parts, ""])


def what_was_found(tables: Mapping[str, Sequence[Table]], verdicts: Sequence[dict], counts: str) -> str:
    """What was found, in sentences, in Markdown; nothing where there is nothing to say."""
    every = [table for shown in tables.values() for table in shown]
    told = findings.sentences(every, verdicts, counts)
    about = (
        "Heads are trained by the paper's steps (Adam) and to the end (converged); where neither is "
        "named, all that was tested says the same. Gains have 95 % intervals, the paper's their range."
    )
    return "\n".join(["## What was found\n", about, "", *(f"- {text}" for text in told), "", ""])


def _entry(title: str, page: str, commands: Sequence[str]) -> str:
    """An entry of a list: a page, and the commands that it is by, where these are few."""
    link = f"- [{title}]({page})"
    if len(commands) > _FEW:
        return f"{link}, by {len(commands)} commands, which stand there\n"
    return "\n".join([f"{link}, by\n", "  ```sh", *(f"  {one}" for one in commands), "  ```", ""])


def with_section(page: pathlib.Path, section: str) -> str:
    """The text of a page with a new section between its marks."""
    try:
        before, rest = page.read_text().split(BEGIN)
        _, after = rest.split(END)
    except ValueError:
        raise ValueError(f"{page.name}: expected the lines {BEGIN} and {END}, once each") from None
    return f"{before}{BEGIN}\n\n{section}{END}{after}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and write the tables."""
    return run_program("summary", lambda: tyro.cli(Summary, args=arguments))


if __name__ == "__main__":
    sys.exit(main())
