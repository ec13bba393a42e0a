"""Damage to a file, one way at a time, and what its reader makes of it."""

import os
import pathlib
import random
from collections.abc import Callable, Iterator

from poolax._files import DamagedFileError

MOST_LETTERS = 1_000


def mutations(content: bytes, number: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Truncations and single flipped bits in turn, with what was done."""
    rng = random.Random(seed)
    for index in range(number):
        place = rng.randrange(len(content))
        if index % 2:
            yield f"cut at {place}", content[:place]
        else:
            bit = 1 << rng.randrange(8)
            changed = bytes([content[place] ^ bit])
            yield f"bit {bit} flipped at {place}", content[:place] + changed + content[place + 1 :]


def outcomes(
    path: pathlib.Path,
    read: Callable[[], object],
    number: int,
    *,
    may_pass: Callable[[bytes, bytes], bool] = lambda old, new: False,
    seed: int = 0,
) -> Iterator[str | None]:
    """What comes of reading each mutation of a file, None where the package held.

    Args:
        path: The file, which is restored.
        read: Reads it; what it gives is compared by ``==``.
        number: How many mutations.
        may_pass: Of content as it was and as it is, whether the format can hold the latter as well, so
            that reading something else is no fault.
        seed: Which mutations.
    """
    content = path.read_bytes()
    expected = read()
    for done, mutated in mutations(content, number, seed):
        path.write_bytes(mutated)
        try:
            found = read()
        except (ValueError, OSError) as error:
            yield _told(error, path, done)
        except Exception as error:
            yield f"{path.name}, {done}: {type(error).__name__}: {error}"
        else:
            silent = found != expected and not may_pass(content, mutated)
            yield f"{path.name}, {done}: read as {str(found)[:200]}" if silent else None
    path.write_bytes(content)
    assert read() == expected


def _told(error, path, done):
    """Why an error is no good one; None if it is."""
    text = str(error)
    names = {path.name, os.fspath(path), *map(os.fspath, list(path.parents)[:4])}
    if not isinstance(error, DamagedFileError):
        return f"{path.name}, {done}: {type(error).__name__}: {text}"
    if not any(name in text for name in names) or "; " not in text:
        return f"{path.name}, {done}: names no file or remedy: {text}"
    if "\n" in text or len(text) > MOST_LETTERS:
        return f"{path.name}, {done}: {len(text)} letters on {text.count(chr(10)) + 1} lines"
    return None


def flips_alone(old: bytes, new: bytes) -> bool:
    """For contents without checksums: as long as before."""
    return len(old) == len(new)


def same_separators(*separators: bytes) -> Callable[[bytes, bytes], bool]:
    """For plain text: as many lines and fields as before, of which any may be another one."""

    def may_pass(old, new):
        if old.startswith(new):
            lost = old[len(new) :].rstrip(b"\n")
            return not any(separator in lost for separator in separators)
        # The end of the last line can turn into a letter of it.
        old, new = (old[:-1], new[:-1]) if old[:-1] == new[:-1] else (old, new)
        return all(old.count(separator) == new.count(separator) for separator in separators)

    return may_pass


def whole_rows(end: bytes, *separators: bytes) -> Callable[[bytes, bytes], bool]:
    """For text of a number of rows that nobody published: rows at its end may be gone as well."""
    unchanged = same_separators(end, *separators)

    def may_pass(old, new):
        if not old.startswith(new):
            return unchanged(old, new)
        rows = new.removesuffix(end).split(end)
        return len({tuple(map(row.count, separators)) for row in rows}) == 1

    return may_pass
