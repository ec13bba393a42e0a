"""From texts to token ids: truncated, then special tokens, then padded."""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
import tokenizers
from jaxtyping import Bool, Int

from poolax import codec
from poolax._checks import check_choice, check_count, check_flag, check_instance
from poolax.backbones._preprocess import Preprocess


def read_tokenizer(text: str, name: str) -> tokenizers.Tokenizer:
    """The tokenizer that JSON describes; ``name`` is what to call it in an error."""
    try:
        return tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the tokenizers library raises nothing more precise
        raise ValueError(f"{name}: expected what tokenizer.json holds, got: {error}") from None


# What a prompt is called that was given without a name.
_GIVEN = "given"
_OF_PROMPTS = ("prompts", "default_prompt", "include_prompt")


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
        prompts: Names and texts of prompts, which may stand in front of a text.
        default_prompt: Name of that which stands there unless another is asked for; ``None`` for none.
        include_prompt: Whether a prompt's tokens, special ones in front included, are pooled.

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
    prompts: tuple[tuple[str, str], ...] = ()
    default_prompt: str | None = None
    include_prompt: bool = True

    def __post_init__(self):
        """Refuse settings that do not fit."""
        for name in ("prefix", "suffix"):
            check_instance(name, getattr(self, name), tuple, "a tuple of tokens")
        check_count("max_tokens", self.max_tokens, at_least=len(self.prefix) + len(self.suffix) + 1)
        check_count("pad_id", self.pad_id, at_least=0)
        check_choice("padding_side", self.padding_side, ("right", "left"))
        if self.pad_to is not None:
            check_count("pad_to", self.pad_to, at_least=self.max_tokens)
        check_flag("include_prompt", self.include_prompt)
        if self.default_prompt is not None:
            check_choice("default_prompt", self.default_prompt, dict(self.prompts))

    def __repr__(self):
        """All settings, and a digest in place of the tokenizer's content."""
        # Prompts only where there are some: what has none is known by its other settings.
        fields = [
            field.name
            for field in dataclasses.fields(self)
            if field.name != "tokenizer_json"
            and (field.name not in _OF_PROMPTS or getattr(self, field.name) != field.default)
        ]
        settings = ", ".join(f"{name}={getattr(self, name)!r}" for name in fields)
        return f"TextPreprocess(<tokenizer {self._digest}>, {settings})"

    def describe_for(self, shape: tuple[int, ...]) -> dict[str, Any]:
        """See :meth:`Preprocess.describe_for`: a digest stands in place of the tokenizer's content."""
        plain = super().describe_for(shape)
        options = {name: part for name, part in plain["options"].items() if name != "tokenizer_json"}
        return {**plain, "options": {"tokenizer": self._digest, **options}}

    @property
    def _digest(self):
        return hashlib.sha256(self.tokenizer_json.encode()).hexdigest()[:16]

    @functools.cached_property
    def tokenizer(self) -> tokenizers.Tokenizer:
        """The tokenizer, without truncation and padding of its own."""
        tokenizer = read_tokenizer(self.tokenizer_json, "tokenizer_json")
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    def __call__(
        self,
        texts: Sequence[str],
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        max_tokens: int | None = None,
    ) -> tuple[Int[np.ndarray, "batch n"], Bool[np.ndarray, "batch n"]]:
        """Tokenise texts.

        Args:
            texts: Texts, ``str`` or UTF-8 ``bytes``; not one string.
            prompt: What stands in front of every text, ``""`` for nothing; ``None`` for
                ``default_prompt``, if there is one.
            prompt_name: Name of one of ``prompts`` instead.
            max_tokens: Most tokens of a row, special ones included; ``None`` for those of the settings.

        Returns:
            Token ids, shape ``(len(texts), n)``, and their mask, True at real tokens and those of the
            prompt.

        Raises:
            ValueError: for one string instead of several, special tokens that the tokenizer does not
                have, an unknown prompt, or more tokens than the settings allow.
        """
        if isinstance(texts, (str, bytes)):
            raise ValueError(f"texts: expected a sequence of texts, got {type(texts).__name__}")
        texts = [text.decode() if isinstance(text, bytes) else text for text in texts]
        odd = next((text for text in texts if not isinstance(text, str)), None)
        if odd is not None or None in texts:
            raise ValueError(f"texts: expected str or bytes, got {odd!r}")
        before = self.prompt_of(prompt, prompt_name)
        texts = [before + text for text in texts] if before else texts
        most = self.max_tokens if max_tokens is None else self.cut_to(max_tokens).max_tokens
        prefix, suffix = self._ids("prefix"), self._ids("suffix")
        room = most - len(prefix) - len(suffix)
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

    def prompt_of(self, prompt: str | None = None, prompt_name: str | None = None) -> str:
        """What stands in front of every text; arguments as of a call.

        Raises:
            ValueError: for both a prompt and a name, or an unknown name.
        """
        if prompt is not None and prompt_name is not None:
            raise ValueError(f"prompt_name: expected None beside a prompt, got {prompt_name!r}")
        if prompt is not None:
            check_instance("prompt", prompt, str, "a text")
            return prompt
        name = self.default_prompt if prompt_name is None else prompt_name
        if name is None:
            return ""
        known = dict(self.prompts)
        check_choice("prompt_name", name, known)
        return known[name]

    def with_prompt(self, prompt: str) -> Self:
        """The same with a prompt that stands in front of every text unless another is asked for.

        Args:
            prompt: The prompt, ``""`` for none.

        Example:
            >>> import tokenizers
            >>> model = tokenizers.models.WordLevel({"[UNK]": 0, "a": 1, "b:": 2}, unk_token="[UNK]")
            >>> words = tokenizers.Tokenizer(model)
            >>> words.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
            >>> TextPreprocess(words.to_str(), 4).with_prompt("b: ")(["a"])[0]
            array([[2, 1]], dtype=int32)
        """
        check_instance("prompt", prompt, str, "a text")
        if not prompt:
            return dataclasses.replace(self, default_prompt=None)
        others = tuple(pair for pair in self.prompts if pair[0] != _GIVEN)
        return dataclasses.replace(self, prompts=(*others, (_GIVEN, prompt)), default_prompt=_GIVEN)

    def tokens_not_pooled(self, prompt: str | None = None, prompt_name: str | None = None) -> int:
        """How many real tokens in front are not to be pooled, as ``include_prompt`` says.

        Args:
            prompt: As for a call.
            prompt_name: As for a call.

        Returns:
            The number of tokens of the prompt alone, with the special ones in front and, of a prompt
            longer than ``max_tokens``, what is left of it; 0 without a prompt, or where it is pooled.
        """
        before = self.prompt_of(prompt, prompt_name)
        if self.include_prompt or not before:
            return 0
        # Cut with the room that the tokens behind a text need, which are pooled whatever the prompt.
        _, mask = dataclasses.replace(self, default_prompt=None, pad_to=None)([before])
        return int(mask.sum()) - len(self.suffix)

    def _ids(self, field) -> list[int]:
        ids = [(token, self.tokenizer.token_to_id(token)) for token in getattr(self, field)]
        unknown = [token for token, number in ids if number is None]
        if unknown:
            raise ValueError(f"{field}: expected tokens of the tokenizer, got {', '.join(unknown)}")
        return [number for _, number in ids if number is not None]
