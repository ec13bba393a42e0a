"""Which columns of a table hold what."""

import dataclasses
from collections.abc import Mapping, Sequence

from poolax.data._own._table import Table

_TEXTS = ("text", "sentence", "content", "review", "tweet", "question", "document")
_LABELS = ("label", "labels", "category", "class", "target", "intent", "sentiment")
_SCORES = ("score", "similarity")
_PAIRS = (("sentence1", "sentence2"), ("text1", "text2"), ("text_a", "text_b"))
_SPLITS = ("split",)


@dataclasses.dataclass(frozen=True)
class Columns:
    """Names of the columns of texts.

    Attributes:
        texts: One column, or the two of a pair.
        label: Column of labels; ``None`` where scores stand.
        score: Column of scores; ``None`` where labels stand.
        split: Column of the names of splits; ``None`` for none.
    """

    texts: tuple[str, ...]
    label: str | None
    score: str | None
    split: str | None


def choose_columns(
    table: Table,
    *,
    text_column: str | None,
    label_column: str | None,
    pair_columns: Sequence[str] | None,
    score_column: str | None,
    split_column: str | None,
) -> Columns:
    """The columns that are named, and for the others those with usual names.

    Args:
        table: The rows.
        text_column: Column of texts.
        label_column: Column of labels.
        pair_columns: Two columns of texts.
        score_column: Column of numbers.
        split_column: Column of the names of splits.

    Returns:
        The names, all of them columns of the table.

    Raises:
        ValueError: for a name that is no column, arguments that exclude each other, and where no
            column has a usual name; the error lists those that there are.
    """
    if text_column is not None and pair_columns is not None:
        raise ValueError("pair_columns: expected none beside text_column, got both")
    if label_column is not None and score_column is not None:
        raise ValueError("score_column: expected none beside label_column, got both")
    named = {
        "text_column": text_column,
        "label_column": label_column,
        "score_column": score_column,
        "split_column": split_column,
    }
    for argument, name in named.items():
        if name is not None:
            table.column(argument, name)
    texts = _texts(table, text_column, pair_columns)
    score = score_column
    if score is None and label_column is None:
        # A pair has a score, and a label where there is none; a single text the other way round.
        score = _usual(table, _SCORES) if len(texts) == 2 or not _usual(table, _LABELS) else None
    label = label_column or (_usual(table, _LABELS) if score is None else None)
    if label is None and score is None:
        raise _not_found(table, "label_column" if len(texts) == 1 else "score_column or label_column")
    return Columns(texts, label, score, split_column or _usual(table, _SPLITS))


def _texts(
    table: Table, text_column: str | None, pair_columns: Sequence[str] | None
) -> tuple[str, ...]:
    if text_column is not None:
        return (text_column,)
    if pair_columns is not None:
        if isinstance(pair_columns, str) or len(pair_columns) != 2:
            raise ValueError(f"pair_columns: expected the names of two columns, got {pair_columns!r}")
        for name in pair_columns:
            table.column("pair_columns", name)
        return tuple(pair_columns)
    for pair in _PAIRS:
        usual = tuple(found for name in pair if (found := _usual(table, (name,))) is not None)
        if len(usual) == len(pair):
            return usual
    return (usual_text_column(table),)


def usual_text_column(table: Table) -> str:
    """The column of texts, by its usual names.

    Raises:
        ValueError: where no column has one; the error lists those that there are.
    """
    found = _usual(table, _TEXTS)
    if found is None:
        raise _not_found(table, "text_column")
    return found


def _usual(table: Table, names: Sequence[str]) -> str | None:
    """The first column of a usual name, whatever its case."""
    lower: Mapping[str, str] = {column.lower(): column for column in reversed(list(table.columns))}
    return next((lower[name] for name in names if name in lower), None)


def _not_found(table: Table, argument: str) -> ValueError:
    known = ", ".join(table.columns)
    return ValueError(f"{argument}: expected the name of a column of {table.path} ({known}), got none")
