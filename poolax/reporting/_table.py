"""A table in Markdown, CSV, LaTeX, HTML and on the terminal from one description."""

import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

import rich.box
import rich.console
import rich.table
from rich.measure import Measurement
from rich.text import Text

from poolax._text import one_line
from poolax.reporting._escapes import csv_text, latex_row, latex_text, markdown_text

_NO_LIMIT = 10_000


@dataclasses.dataclass(frozen=True)
class Cell:
    """Text of a cell with its emphasis.

    Attributes:
        text: What it says, plain text.
        bold: What was chosen, of scores by validation.
        underlined: Best of its kind, of scores on test.
    """

    text: str
    bold: bool = False
    underlined: bool = False

    def markdown(self) -> str:
        """The cell in Markdown."""
        text = markdown_text(self.text)
        text = f"<u>{text}</u>" if self.underlined else text
        return f"**{text}**" if self.bold else text

    def latex(self) -> str:
        """The cell in LaTeX."""
        text = latex_text(self.text)
        text = rf"\underline{{{text}}}" if self.underlined else text
        return rf"\textbf{{{text}}}" if self.bold else text

    def rich(self) -> Text:
        """The cell for the terminal."""
        style = " ".join(["bold"] * self.bold + ["underline"] * self.underlined)
        return Text(one_line(self.text), style=style)

    def plain(self) -> "Cell":
        """The cell with signs in place of bold and underlined letters."""
        text = f"_{self.text}_" if self.underlined else self.text
        return Cell(f"*{text}*" if self.bold else text)

    def fill(self, element: ElementTree.Element) -> None:
        """Put the cell into an element of HTML."""
        for tag, wanted in (("b", self.bold), ("u", self.underlined)):
            element = ElementTree.SubElement(element, tag) if wanted else element
        element.text = one_line(self.text)


@dataclasses.dataclass(frozen=True)
class Table:
    r"""A table for people, and the tidy rows behind it for programs.

    All text is plain: what a language of tables would read as a command is written out. Printed, and
    in a notebook, it is a table.

    Attributes:
        title: Above the table.
        columns: Headings.
        rows: Cells.
        notes: Below the table.
        tidy: One dictionary for each value.

    Example:
        >>> rows = [[Cell("digits"), Cell("0.9", bold=True), Cell("0.8")]]
        >>> table = Table("Scores", ["task", "avg", "max|sum"], rows, notes=["Test."], tidy=[])
        >>> print(table.markdown())
        ## Scores
        <BLANKLINE>
        | task | avg | max\|sum |
        | --- | --- | --- |
        | digits | **0.9** | 0.8 |
        <BLANKLINE>
        Test.
        <BLANKLINE>
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str]
    tidy: Sequence[Mapping[str, Any]]

    def __str__(self) -> str:
        """The table as plain text, as wide as the terminal; turned or in parts where only that fits."""
        emphasised = any(cell.bold or cell.underlined for row in self.rows for cell in row)
        rows = [[cell.plain() for cell in row] for row in self.rows]
        plain = dataclasses.replace(self, rows=rows, notes=())
        console = rich.console.Console(file=io.StringIO(), color_system=None, force_jupyter=False)
        is_wide = plain.natural_width(compact=True) > console.width
        turned = plain.transposed()
        fits = turned.natural_width(compact=True) <= console.width
        shown = turned if is_wide and fits and len(plain.in_parts()) == 1 else plain
        with console.capture() as captured:
            for part in shown.for_width(console.width):
                console.print(part)
            for note in self.notes:
                console.print(Text(one_line(note)))
            if emphasised:
                console.print(Text("*bold*, _underlined_"))
        lines = captured.get().splitlines()
        return "\n".join(line.rstrip() for line in lines).strip("\n")

    def __rich__(self) -> rich.table.Table:
        """The table where rich prints it."""
        return self.rich()

    def _repr_html_(self) -> str:
        """The table where a notebook shows it."""
        return self.html()

    def markdown(self, *, level: int = 2) -> str:
        """The table in Markdown, below a heading of this level."""
        columns = map(markdown_text, self.columns)
        lines = [f"{'#' * level} {markdown_text(self.title)}", "", "| " + " | ".join(columns) + " |"]
        lines.append("|" + " --- |" * len(self.columns))
        lines += ["| " + " | ".join(cell.markdown() for cell in row) + " |" for row in self.rows]
        lines += [""] + [f"{markdown_text(note)}\n" for note in self.notes]
        return "\n".join(lines)

    def csv(self) -> str:
        """The tidy rows as CSV.

        Text that a spreadsheet would run as a formula begins with an apostrophe.

        Raises:
            ValueError: if there is no tidy row.
        """
        if not self.tidy:
            raise ValueError("tidy: expected at least one row to write as CSV, got none")
        return csv_text(self.tidy)

    def latex(self) -> str:
        """The table in LaTeX, with rules of the package booktabs."""
        lines = [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{latex_text(' '.join([f'{self.title}.', *self.notes]))}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(self.columns) - 1)}}}",
            r"\toprule",
            latex_row(map(latex_text, self.columns)),
            r"\midrule",
            *(latex_row(cell.latex() for cell in row) for row in self.rows),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
        return "\n".join(lines) + "\n"

    def html(self) -> str:
        """The table in HTML, a ``div`` with its notes."""
        division = ElementTree.Element("div")
        table = ElementTree.SubElement(division, "table")
        ElementTree.SubElement(table, "caption").text = one_line(self.title)
        head = ElementTree.SubElement(ElementTree.SubElement(table, "thead"), "tr")
        for column in self.columns:
            ElementTree.SubElement(head, "th", scope="col").text = one_line(column)
        body = ElementTree.SubElement(table, "tbody")
        for row in self.rows:
            line = ElementTree.SubElement(body, "tr")
            for cell in row:
                cell.fill(ElementTree.SubElement(line, "td"))
        for note in self.notes:
            ElementTree.SubElement(division, "p").text = one_line(note)
        return ElementTree.tostring(division, encoding="unicode", method="html")

    def transposed(self) -> "Table":
        """The same table with rows and columns exchanged, where there are few rows and many columns."""
        rows = [
            [Cell(column), *(row[index] for row in self.rows)]
            for index, column in enumerate(self.columns)
            if index > 0
        ]
        columns = [self.columns[0], *(row[0].text for row in self.rows)]
        return dataclasses.replace(self, columns=columns, rows=rows)

    def in_parts(self) -> Sequence["Table"]:
        """Tables below each other, with the first column in each, for where one is too wide.

        Columns stay together whose headings begin with the same words before a comma. The title is that
        of the first part, and notes are those of the last one.
        """
        groups: dict[str, list[int]] = {}
        for index, column in enumerate(self.columns[1:], 1):
            groups.setdefault(column.partition(", ")[0], []).append(index)
        parts = [self._of_columns(chosen) for chosen in groups.values()]
        if len(parts) in (0, len(self.columns) - 1):
            return [self]
        parts[0] = dataclasses.replace(parts[0], title=self.title)
        parts[-1] = dataclasses.replace(parts[-1], notes=self.notes)
        return parts

    def for_width(self, width: int) -> list[rich.table.Table]:
        """The table for a terminal of so many columns, without notes.

        Compact if need be, then with cells of several lines, and in parts where words would be broken:
        of columns that belong together, and of fewer where these are too wide.
        """
        bare = dataclasses.replace(self, notes=())
        for compact in (False, True):
            if self.natural_width(compact=compact) <= width:
                return [bare.rich(compact=compact)]
        if bare._measured(compact=True).minimum <= width:
            return [bare._whole_words()]
        parts = [part for group in bare.in_parts() for part in group._narrow(width)]
        return [
            part.rich()
            if part.natural_width() <= width
            else part._whole_words()
            if part._measured(compact=True).minimum <= width
            else part.rich(compact=True)
            for part in parts
        ]

    def _whole_words(self) -> rich.table.Table:
        """The compact table, whose longest words fit beside each other: only lines with spaces break.

        Left to itself, rich takes from the widest columns first, words or not.
        """
        table = self.rich(compact=True)
        for column in table.columns:
            texts = [column.header, *column.cells]
            column.no_wrap = all(len(str(text).split(" ")) == 1 for text in texts)
        return table

    def _narrow(self, width: int) -> list["Table"]:
        """As few parts as have no broken words, of columns one after the other."""
        found: list[list[int]] = []
        for index in range(1, len(self.columns)):
            longer = [*found[-1], index] if found else []
            if longer and self._of_columns(longer)._measured(compact=True).minimum <= width:
                found[-1] = longer
            else:
                found.append([index])
        parts = [self._of_columns(chosen) for chosen in found] or [self]
        return [dataclasses.replace(parts[0], title=self.title), *parts[1:]]

    def _of_columns(self, chosen: Sequence[int]) -> "Table":
        """The first column beside some others, without title and notes."""
        return dataclasses.replace(
            self,
            title="",
            columns=[self.columns[k] for k in (0, *chosen)],
            rows=[[row[k] for k in (0, *chosen)] for row in self.rows],
            notes=(),
        )

    def rich(self, *, compact: bool = False) -> rich.table.Table:
        """The table for the terminal; compact, with spaces in place of lines between columns.

        What is still too wide is broken over lines, never cut.
        """
        style: dict[str, Any] = {"padding": 0, "box": rich.box.SIMPLE_HEAD} if compact else {}
        caption = Text("\n".join(map(one_line, self.notes)), style="table.caption")
        table = rich.table.Table(
            title=Text(one_line(self.title), style="table.title") if self.title else None,
            caption=caption if self.notes else None,
            caption_justify="left",
            **style,
        )
        for index, column in enumerate(map(one_line, self.columns)):
            # Several long names beside each other fit a terminal only when they are broken.
            lines = column.replace(", ", "\n").replace(" (", "\n(") if ", " in column else column
            table.add_column(Text(lines), justify="left" if index == 0 else "right", overflow="fold")
        for row in self.rows:
            table.add_row(*(cell.rich() for cell in row))
        return table

    def natural_width(self, *, compact: bool = False) -> int:
        """Columns of a terminal that the table takes where no line of it is broken."""
        return dataclasses.replace(self, notes=())._measured(compact=compact).maximum

    def _measured(self, *, compact: bool) -> Measurement:
        console = rich.console.Console(file=io.StringIO(), width=_NO_LIMIT, force_jupyter=False)
        return Measurement.get(console, console.options, self.rich(compact=compact))
