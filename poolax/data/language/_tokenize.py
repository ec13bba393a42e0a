"""Texts to token ids, once: kept beside each other without padding, and on disk if wanted."""

import dataclasses
import hashlib
import io
import os
import uuid
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from etils import epath
from jaxtyping import Bool, Int

from poolax._arrays import ARRAY_ERRORS, read_arrays
from poolax._files import writing_to

if TYPE_CHECKING:
    from poolax.backbones import TextPreprocess

_CHUNK = 4096


@dataclasses.dataclass(frozen=True)
class Tokens:
    """Rows of token ids, one behind the other.

    Attributes:
        ids: Ids of all rows.
        offsets: Row ``i`` is ``ids[offsets[i]:offsets[i + 1]]``.
    """

    ids: Int[np.ndarray, " total"]
    offsets: Int[np.ndarray, " rows_and_one"]

    @classmethod
    def of(cls, ids: np.ndarray, lengths: np.ndarray) -> "Tokens":
        """From the ids of all rows and the length of each."""
        return cls(np.asarray(ids, np.int32), np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))

    @property
    def lengths(self) -> Int[np.ndarray, " rows"]:
        """Number of tokens of each row."""
        return np.diff(self.offsets)

    def row(self, index: int) -> Int[np.ndarray, " length"]:
        """The ids of a row."""
        return self.ids[self.offsets[index] : self.offsets[index + 1]]

    def padded(
        self, width: int, side: str, pad_id: int
    ) -> tuple[Int[np.ndarray, "rows width"], Bool[np.ndarray, "rows width"]]:
        """Rows of equal width and their mask."""
        lengths = self.lengths[:, None]
        start = 0 if side == "right" else width - lengths
        columns = np.arange(width)
        mask = (columns >= start) & (columns < start + lengths)
        ids = np.full(mask.shape, pad_id, np.int32)
        ids[mask] = self.ids
        return ids, mask

    @property
    def digest(self) -> str:
        """SHA-256 of the content."""
        return hashlib.sha256(self.ids.tobytes() + self.offsets.tobytes()).hexdigest()


def tokenize(
    texts: Any, preprocess: "TextPreprocess", *, cache_dir: epath.PathLike | None = None
) -> tuple[Int[np.ndarray, "*batch n"], Bool[np.ndarray, "*batch n"]]:
    """Tokenise texts once; equal to ``preprocess(texts)``, of any number of axes.

    With ``cache_dir`` the ids are kept in a file named by the SHA-256 of the texts and of
    ``repr(preprocess)``, which says all settings and a digest of the tokenizer, and are read from it
    the next time. The file appears whole or not at all; one that is damaged is made again.

    Args:
        texts: Texts, shape ``(N,)``, or ``(N, parts)`` where an example has several.
        preprocess: Tokenizes and pads: a :class:`poolax.backbones.TextPreprocess`.
        cache_dir: Folder of the cache, local or ``gs://``; ``None`` for none.

    Returns:
        Token ids, shape ``(N, n)`` or ``(N, parts, n)``, and their mask, True at real tokens.

    Raises:
        ValueError: for one text instead of several, or as ``preprocess`` raises.

    Example:
        >>> import tokenizers
        >>> from poolax.backbones import TextPreprocess
        >>> model = tokenizers.models.WordLevel({"[UNK]": 0, "a": 1, "b": 2}, unk_token="[UNK]")
        >>> words = tokenizers.Tokenizer(model)
        >>> words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        >>> ids, mask = tokenize([["a", "b a"], ["b b b", "a"]], TextPreprocess(words.to_str(), 8))
        >>> ids.shape, ids[1].tolist(), mask.sum(-1).tolist()
        ((2, 2, 3), [[2, 2, 2], [1, 0, 0]], [[1, 2], [3, 1]])
    """
    if isinstance(texts, (str, bytes)):
        raise ValueError(f"texts: expected a sequence of texts, got {type(texts).__name__}")
    check_text_preprocess(preprocess)
    texts = np.asarray(texts, dtype=object)
    tokens = read_tokens(texts.ravel().tolist(), preprocess, cache_dir)
    width = preprocess.pad_to or max(int(tokens.lengths.max(initial=0)), 1)
    ids, mask = tokens.padded(width, preprocess.padding_side, preprocess.pad_id)
    return ids.reshape(*texts.shape, width), mask.reshape(*texts.shape, width)


def check_text_preprocess(preprocess: Any) -> None:
    """Refuse what does not tokenise, or whose ``repr`` does not tell tokenizers apart."""
    from poolax.backbones import TextPreprocess  # whoever has one has imported them

    if not isinstance(preprocess, TextPreprocess):
        kind = type(preprocess).__name__
        raise ValueError(f"preprocess: expected a TextPreprocess, got {kind}")


def read_tokens(
    texts: Sequence[str], preprocess: "TextPreprocess", cache_dir: epath.PathLike | None = None
) -> Tokens:
    """Tokens of texts without padding, from the cache if they are there."""
    if cache_dir is None:
        return _tokens(texts, preprocess)
    path = epath.Path(cache_dir) / f"{_key(texts, preprocess)}.npz"
    cached = _read(path, len(texts))
    if cached is not None:
        return cached
    tokens = _tokens(texts, preprocess)
    _write(path, tokens)
    return tokens


def _tokens(texts, preprocess):
    """In chunks, since encodings and padding take many times the room of the ids."""
    ids, lengths = [np.zeros(0, np.int32)], [np.zeros(0, np.int64)]
    for start in range(0, len(texts), _CHUNK):
        padded, mask = preprocess(texts[start : start + _CHUNK])
        ids.append(padded[mask])
        lengths.append(mask.sum(axis=-1))
    return Tokens.of(np.concatenate(ids), np.concatenate(lengths))


def _key(texts: Iterable[Any], preprocess) -> str:
    digest = hashlib.sha256(f"{preprocess!r}\0".encode())
    for text in texts:
        content = text if isinstance(text, bytes) else str(text).encode()
        digest.update(f"{len(content)} ".encode() + content)  # lengths tell ("ab",) from ("a", "b")
    return digest.hexdigest()


def _read(path, num_rows) -> Tokens | None:
    """What a file holds, or ``None`` where there is none or one that is damaged."""
    try:
        arrays = read_arrays(io.BytesIO(path.read_bytes()))
        tokens, digest = Tokens(arrays["ids"], arrays["offsets"]), str(arrays["digest"])
    except ARRAY_ERRORS:
        return None
    fits = (tokens.ids.dtype, tokens.offsets.dtype) == (np.int32, np.int64)
    fits = fits and tokens.offsets.shape == (num_rows + 1,)
    return tokens if fits and tokens.digest == digest else None


def _write(path, tokens):
    content = io.BytesIO()
    np.savez(content, ids=tokens.ids, offsets=tokens.offsets, digest=np.array(tokens.digest))
    temporary = path.parent / f".{path.name}.{os.getpid()}.{uuid.uuid4().hex}"
    try:
        with writing_to(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(content.getvalue())
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
