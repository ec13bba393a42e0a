"""Tokens of a source, written where they are not there yet or the source is another by now."""

from typing import Any

from etils import epath

from poolax._paths import absolute_path
from poolax._processes import once
from poolax._progress import Progress, no_progress
from poolax.data.tokens._sources import documents
from poolax.data.tokens._tokenizers import load_tokenizer
from poolax.data.tokens._write import write
from poolax.records import digest

_DIGITS = 8


def write_once(
    source: Any,
    directory: epath.PathLike,
    *,
    tokenizer: Any = None,
    vocab_size: int | None = None,
    text_column: str | None = None,
    near_copies: float | None = None,
    progress: Progress = no_progress,
) -> tuple[epath.Path, epath.Path | None]:
    r"""The folder of a source's tokens, as :func:`write` writes them, made anew where it has to be.

    Folders are called by a digest of source and arguments, and by one of what the source holds, of
    files their names, lengths and times: a source that changed gets a new folder beside the old one.

    Args:
        source: What :func:`documents` takes.
        directory: Folder in which the folders of tokens stand. Of several processes one writes.
        tokenizer: What :func:`load_tokenizer` takes; ``None`` to train one.
        vocab_size: Tokens of a tokenizer that is trained.
        text_column: Column of a table.
        near_copies: See :func:`write`.
        progress: Called with a description, how many bytes are read, and all.

    Returns:
        The folder; and the one that was there of the same source as it was before, on the process that
        wrote, else ``None``.

    Raises:
        ValueError: as :func:`write` does.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = pathlib.Path(folder, "tales.txt")
        ...     _ = file.write_text("\n".join(f"The {n}th of many texts." for n in range(90)))
        ...     first, again = (write_once(file, folder, vocab_size=300) for _ in range(2))
        ...     _ = file.write_text("\n".join(f"Text {n} of all others." for n in range(100)))
        ...     other = write_once(file, folder, vocab_size=300)
        >>> first == again, other[1] == first[0]
        (True, True)
    """
    found = documents(source, text_column=text_column)
    told = {
        "source": list(found.sources),
        "vocab_size": vocab_size,
        "tokenizer": None if tokenizer is None else load_tokenizer(tokenizer).to_str(),
        "text_column": text_column,
        "near_copies": near_copies,
    }
    name = f"tokens-{digest(told)[:_DIGITS]}"
    folder = absolute_path(directory) / f"{name}-{found.version[:_DIGITS]}"
    former: list[epath.Path] = []

    def make() -> None:
        if folder.exists():
            return
        kept = sorted(folder.parent.glob(f"{name}-{'?' * _DIGITS}"))
        how: Any = {"tokenizer": tokenizer, "vocab_size": vocab_size, "near_copies": near_copies}
        write(found, folder, progress=progress, **how)
        former.extend(kept[-1:])

    once(make, f"{folder}: the tokens")
    return folder, former[0] if former else None
