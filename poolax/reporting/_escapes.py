"""Text of data in the languages of tables: what these read as commands is written out."""

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from poolax._text import one_line, printable

# Backslashes before punctuation are CommonMark; dollars are mathematics to several readers of it.
_MARKDOWN = str.maketrans({sign: f"\\{sign}" for sign in "\\`*_[]<>|&~$#"})
# What would begin a list, or make a heading of the line above.
_BLOCK = re.compile(r"^(?=[-+]\s|[-=]+$)|^\d+(?=[.)](\s|$))")
_LATEX = str.maketrans(
    {name: rf"\{name}" for name in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"±": r"$\pm$", "–": "--", "<": r"$<$", ">": r"$>$"}
    # A bar is a dash in the first encoding of fonts in LaTeX; packages of languages take quotes.
    | {"|": r"\textbar{}", '"': "''"}
)
_FORMULA = ("=", "+", "-", "@")


def markdown_text(text: str) -> str:
    r"""One line of Markdown that shows the text.

    Example:
        >>> print(markdown_text("a|b_c <d>"))
        a\|b\_c \<d\>
    """
    escaped = one_line(text).translate(_MARKDOWN)
    return _BLOCK.sub(lambda match: f"{match[0]}\\", escaped)


def latex_text(text: str) -> str:
    r"""One line of LaTeX that shows the text.

    Example:
        >>> print(latex_text("50 % & more"))
        50 \% \& more
    """
    return one_line(text).translate(_LATEX)


def latex_row(cells: Iterable[str]) -> str:
    r"""A row of cells that are LaTeX.

    A bracket or an asterisk at its beginning would be an argument of what ends the line above.

    Example:
        >>> print(latex_row(["[CLS]", "0.9"]))
        {}[CLS] & 0.9 \\
    """
    row = " & ".join(cells) + r" \\"
    return f"{{}}{row}" if row.lstrip().startswith(("[", "*")) else row


def csv_value(value: Any) -> Any:
    """A value for CSV: text that a spreadsheet would run as a formula begins with an apostrophe.

    Example:
        >>> csv_value("=1+1"), csv_value("-0.5"), csv_value(-0.5)
        ("'=1+1", '-0.5', -0.5)
    """
    if not isinstance(value, str):
        return value
    text = printable(value)
    runs = text.lstrip().startswith(_FORMULA) and not _is_number(text)
    return f"'{text}" if runs else text


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV, with a column for each name in any of them.

    Example:
        >>> print(csv_text([{"pooler": "avg", "test": 0.9}, {"pooler": "=1+1"}]), end="")
        pooler,test
        avg,0.9
        '=1+1,
    """
    text = io.StringIO()
    fields = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(csv_value, fields))
    writer.writerows([csv_value(row.get(name, "")) for name in fields] for row in rows)
    return text.getvalue()


def _is_number(text):
    try:
        float(text)
    except ValueError:
        return False
    return True
