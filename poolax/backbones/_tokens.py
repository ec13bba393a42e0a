"""From texts to token ids: truncated, then special tokens, then padded."""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from typing import ClassVar, Self

import numpy as np
import tokenizers
from jaxtyping import Bool, Int

from poolax import codec
from poolax._checks import check_choice, check_count, check_instance
from poolax.backbones._preprocess import Preprocess


def read_tokenizer(text: str, name: str) -> tokenizers.Tokenizer:
    """The tokenizer that JSON describes; ``name`` is what to call it in an error."""
    try:
        return tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the tokenizers library raises nothing more precise
        raise ValueError(f"{name}: expected what tokenizer.json holds, got: {error}") from None


@codec.register("preprocess", "text")
@dataclasses.dataclass(frozen=True)
class TextPreprocess(Preprocess):
    """From texts to token ids and their mask.

    A text's tokens are cut to what leaves room for the special tokens, then these are added, then the
    row is padded: the token that ends a text is never lost to truncation.

    Attributes:
        tokenizer_json: Content of a ``tokenizer.json``; what it says of truncation, padding and special
            tokens is not used.
        max_tokens: Most tokens of a row, special ones included.
        prefix: Special tokens in front, such as ``("[CLS]",)``.
        suffix: Special tokens at the end, such as ``("[SEP]",)`` or an end-of-text token.
        padding_side: ``"right"`` or ``"left"``.
        pad_id: Id that stands at padded positions.
        pad_to: Length of all rows; ``None`` for that of the longest.

    Example:
        >>> import tokenizers
        >>> vocabulary = {"[CLS]": 0, "[SEP]": 1, "[UNK]": 2, "a": 3, "b": 4}
        >>> model = tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]")
        >>> words = tokenizers.Tokenizer(model)
        >>> words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        >>> prepare = TextPreprocess(words.to_str(), 4, prefix=("[CLS]",), suffix=("[SEP]",))
        >>> ids, mask = prepare(["a", "b a b a b"])
        >>> ids
        array([[0, 3, 1, 0],
               [0, 4, 3, 1]], dtype=int32)
        >>> mask.astype(int)
        array([[1, 1, 1, 0],
               [1, 1, 1, 1]])
    """

    on_host: ClassVar[bool] = True

    tokenizer_json: str
    max_tokens: int
    prefix: tuple[str, ...] = ()
    suffix: tuple[str, ...] = ()
    padding_side: str = "right"
    pad_id: int = 0
    pad_to: int | None = None

    def __post_init__(self):
        """Refuse settings that do not fit."""
        for name in ("prefix", "suffix"):
            check_instance(name, getattr(self, name), tuple, "a tuple of tokens")
        check_count("max_tokens", self.max_tokens, at_least=len(self.prefix) + len(self.suffix) + 1)
        check_count("pad_id", self.pad_id, at_least=0)
        check_choice("padding_side", self.padding_side, ("right", "left"))
        if self.pad_to is not None:
            check_count("pad_to", self.pad_to, at_least=self.max_tokens)

    def __repr__(self):
        """All settings, and a digest in place of the tokenizer's content."""
        digest = hashlib.sha256(self.tokenizer_json.encode()).hexdigest()[:16]
        fields = [field.name for field in dataclasses.fields(self) if field.name != "tokenizer_json"]
        settings = ", ".join(f"{name}={getattr(self, name)!r}" for name in fields)
        return f"TextPreprocess(<tokenizer {digest}>, {settings})"

    @functools.cached_property
    def tokenizer(self) -> tokenizers.Tokenizer:
        """The tokenizer, without truncation and padding of its own."""
        tokenizer = read_tokenizer(self.tokenizer_json, "tokenizer_json")
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    def __call__(
        self, texts: Sequence[str]
    ) -> tuple[Int[np.ndarray, "batch n"], Bool[np.ndarray, "batch n"]]:
        """Tokenise texts.

        Args:
            texts: Texts, ``str`` or UTF-8 ``bytes``; not one string.

        Returns:
            Token ids, shape ``(len(texts), n)``, and their mask, True at real tokens.

        Raises:
            ValueError: for one string instead of several, or special tokens that the tokenizer does not
                have.
        """
        if isinstance(texts, (str, bytes)):
            raise ValueError(f"texts: expected a sequence of texts, got {type(texts).__name__}")
        texts = [text.decode() if isinstance(text, bytes) else text for text in texts]
        odd = next((text for text in texts if not isinstance(text, str)), None)
        if odd is not None or None in texts:
            raise ValueError(f"texts: expected str or bytes, got {odd!r}")
        prefix, suffix = self._ids("prefix"), self._ids("suffix")
        room = self.max_tokens - len(prefix) - len(suffix)
        encoded = self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        rows = [prefix + encoding.ids[:room] + suffix for encoding in encoded]
        length = self.pad_to or max([len(row) for row in rows], default=1) or 1
        ids = np.full((len(rows), length), self.pad_id, np.int32)
        mask = np.zeros(ids.shape, bool)
        for index, row in enumerate(rows):
            start = 0 if self.padding_side == "right" else length - len(row)
            ids[index, start : start + len(row)] = row
            mask[index, start : start + len(row)] = True
        return ids, mask

    def cut_to(self, max_tokens: int) -> Self:
        """See :meth:`Preprocess.cut_to`."""
        check_count("max_tokens", max_tokens)
        if max_tokens > self.max_tokens:
            raise ValueError(f"max_tokens: expected at most {self.max_tokens}, got {max_tokens}")
        pad_to = None if self.pad_to is None else max_tokens
        return dataclasses.replace(self, max_tokens=max_tokens, pad_to=pad_to)

    def _ids(self, field) -> list[int]:
        ids = [(token, self.tokenizer.token_to_id(token)) for token in getattr(self, field)]
        unknown = [token for token, number in ids if number is None]
        if unknown:
            raise ValueError(f"{field}: expected tokens of the tokenizer, got {', '.join(unknown)}")
        return [number for _, number in ids if number is not None]
