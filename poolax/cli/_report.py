"""``poolax report``."""

import dataclasses
import os
import sys
import webbrowser
from typing import Annotated, ClassVar

import rich.console
import tyro

from poolax._paths import absolute_path, write_atomically
from poolax._text import one_line
from poolax.cli._console import COMPLETE, FAILURE, show, tell
from poolax.cli._options import OptionalPath
from poolax.reporting import report_files, report_page

_PAGE = "report.html"


@dataclasses.dataclass(frozen=True)
class Report:
    """One page of HTML from the records of a run: what to take first, then tables and figures.

        poolax report poolax-quickstart --open

    The page is one file below 3 MB that asks nothing of any other place: send it, keep it, print it.
    It holds the recommendation where there is one, scores with intervals, measured constants beside
    bounds, curves, tables to sort and filter, commands and versions, and the records to save from it.

    Attributes:
        folder: Folder that quickstart, advise, compare, a sweep or an experiment left, or a file of
            records, such as what "poolax bounds --json" prints.
        files: Folder for the tables and figures by themselves as well: Markdown, LaTeX and CSV, PNG,
            PDF and SVG.
        out: File to write; by default report.html in the folder, or beside the file.
        open: Show it in a browser.
        as_json: Print one line of JSON about the page instead of where it is.
        debug: Show where an error comes from.
    """

    resumable: ClassVar[bool] = False

    folder: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DIR")]
    files: OptionalPath = None
    out: OptionalPath = None
    open: bool = False
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    debug: bool = False

    def run(self) -> int:
        """Run the command and give its exit code."""
        page = report_page(self.folder)
        source = absolute_path(self.folder)
        beside = source / _PAGE if source.is_dir() else source.with_suffix(".html")
        out = beside if self.out is None else absolute_path(self.out)
        write_atomically(out, page.html)
        if self.files is not None:
            report_files(self.folder, self.files)
        for remark in page.remarks:
            print(f"poolax: {one_line(remark)}", file=sys.stderr)
        record = {
            "kind": "report",
            "page": os.fspath(out),
            "headline": page.headline,
            "num_records": page.num_records,
            "remarks": list(page.remarks),
        }
        show([], [record], as_json=self.as_json)
        if not self.as_json:
            console = rich.console.Console()
            tell(console, page.headline)
            tell(console, f"Page: {os.fspath(out)}")
            if self.files is not None:
                tell(console, f"Tables and figures: {self.files}")
        if self.open and not webbrowser.open(out.as_uri()):
            print("poolax: open: expected a browser on this machine, got none", file=sys.stderr)
            return FAILURE
        return COMPLETE
