"""Tokenizers: one that is there, or a byte-level vocabulary of the texts themselves."""

import json
import os
from collections.abc import Iterable, Iterator
from typing import Any

import huggingface_hub
import numpy as np
import tokenizers
from etils import epath
from huggingface_hub import errors
from jaxtyping import Int

from poolax._checks import check_count, check_instance
from poolax._files import reading
from poolax._progress import Progress, no_progress
from poolax._text import one_line

# What a byte-level vocabulary begins with: a token for each byte.
_NUM_BYTES = 256
_TRAINING = "training the tokenizer"
_USUAL = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "[SEP]")


def train_tokenizer(
    texts: Iterable[str],
    vocab_size: int,
    *,
    end_of_text: str | None = "<|endoftext|>",
    progress: Progress = no_progress,
    total: int | None = None,
) -> tokenizers.Tokenizer:
    """Train a byte-level byte-pair encoding, as GPT-2's: no text is without tokens, and none is lost.

    The same texts give the same tokenizer. Counts of their words are held, not the texts.

    Args:
        texts: The texts, which are read once.
        vocab_size: Most tokens: one for each byte, the end of a text, and as many merges as fit and as
            the texts have.
        end_of_text: The special token that ends a document, whose id is 0; ``None`` for none.
        progress: Called with a description, how many characters are read, and ``total``.
        total: Characters of all texts, where progress is to be told.

    Returns:
        The tokenizer.

    Raises:
        ValueError: for a vocabulary too small for the bytes, one text instead of several, or no text.

    Example:
        >>> tokenizer = train_tokenizer(["a rose is a rose"] * 2, 270)
        >>> encoded = tokenizer.encode("a rose ☀")
        >>> encoded.tokens[:2], tokenizer.decode(encoded.ids), tokenizer.token_to_id("<|endoftext|>")
        (['a', 'Ġrose'], 'a rose ☀', 0)

    Reference:
        Radford et al., "Language Models are Unsupervised Multitask Learners" (2019), section 2.2.
    """
    check_count("vocab_size", vocab_size, at_least=_NUM_BYTES + (end_of_text is not None))
    if isinstance(texts, str):
        raise ValueError("texts: expected several texts, got one")
    if end_of_text is not None:
        check_instance("end_of_text", end_of_text, str, "a text")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[] if end_of_text is None else [end_of_text],
    )
    seen = [0]
    tokenizer.train_from_iterator(_told(texts, seen, progress, total), trainer)
    if not seen[0]:
        raise ValueError("texts: expected some, got none")
    if total is not None:
        progress(_TRAINING, total, total)
    return tokenizer


def _told(
    texts: Iterable[str], seen: list[int], progress: Progress, total: int | None
) -> Iterator[str]:
    for text in texts:
        seen[0] += len(text)
        yield text
        if total is not None:
            progress(_TRAINING, min(seen[0], total), total)


def load_tokenizer(source: Any) -> tokenizers.Tokenizer:
    """A tokenizer that is there.

    Args:
        source: A ``tokenizer.json``, a folder with one (such as that of a checkpoint), a hub id, JSON
            of a tokenizer, or a :class:`poolax.backbones.TextPreprocess`, such as a language model's
            ``preprocess``.

    Returns:
        The tokenizer, without truncation and padding.

    Raises:
        ValueError: where there is none.

    Example:
        >>> trained = train_tokenizer(["a rose is a rose"], 270)
        >>> load_tokenizer(trained.to_str()).get_vocab() == trained.get_vocab()
        True
    """
    if isinstance(source, tokenizers.Tokenizer):
        source = source.to_str()
    text = getattr(source, "tokenizer_json", None)
    if text is None:
        text = source if isinstance(source, str) and source.lstrip().startswith("{") else _read(source)
    try:
        tokenizer = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the tokenizers library raises nothing more precise
        raise ValueError(f"tokenizer: expected what tokenizer.json holds, got: {error}") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _read(source: Any) -> str:
    """The content of a tokenizer.json: a file, in a folder or checkpoint, or on a hub."""
    if not isinstance(source, (str, os.PathLike)) or not os.fspath(source):
        raise ValueError(
            f"tokenizer: expected a file, a folder, a hub id or a tokenizer, got {source!r}"
        )
    from poolax._checkpoint import checkpoint_metadata  # Orbax, which takes a second to import
    from poolax.backbones import is_saved_backbone

    path = epath.Path(source).expanduser()
    if path.is_dir() and not (path / "tokenizer.json").exists() and is_saved_backbone(path):
        preprocess = checkpoint_metadata(path)["backbone"]["preprocess"]
        text = preprocess.get("options", {}).get("tokenizer_json")
        if text is None:
            raise ValueError(f"tokenizer: expected a language model's checkpoint, got {source}")
        return text
    if not path.exists():
        path = _fetch(os.fspath(source))
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.exists():
        raise ValueError(f"tokenizer: expected tokenizer.json in {source}, got none")
    with reading(file, "text in UTF-8", "fetch it again", UnicodeDecodeError):
        return file.read_bytes().decode("utf-8")


def _fetch(hub_id: str) -> epath.Path:
    try:
        return epath.Path(huggingface_hub.hf_hub_download(hub_id, "tokenizer.json"))
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, errors.HFValidationError) as error:
        reason = one_line(str(error).strip().split("\n")[0], longest=300) or type(error).__name__
        raise ValueError(
            "tokenizer: expected a file, a folder or a hub id that can be reached or is in the cache, "
            f"got {hub_id!r}: {reason}"
        ) from None


def token_that_ends(tokenizer: tokenizers.Tokenizer, name: str | None = None) -> tuple[str, int]:
    """The token behind a document, and its id.

    Args:
        tokenizer: The tokenizer.
        name: The token; ``None`` for the first of the usual ones that the tokenizer has.

    Raises:
        ValueError: if the tokenizer does not have it, or has none of the usual ones.
    """
    for token in _USUAL if name is None else (name,):
        found = tokenizer.token_to_id(token)
        if found is not None:
            return token, found
    expected = f"one of {', '.join(_USUAL)}, or another that is named," if name is None else "a token"
    got = "none of them" if name is None else repr(name)
    raise ValueError(f"end_of_text: expected {expected} in the tokenizer's vocabulary, got {got}")


def bytes_of_tokens(tokenizer: tokenizers.Tokenizer) -> Int[np.ndarray, " vocab"]:
    """How many bytes of text each token of a byte-level vocabulary stands for; special ones for none.

    Summed over the tokens of a text they are its bytes in UTF-8, after the tokenizer's normalisation if
    it has one: what turns losses of tokens into bits a byte.

    Args:
        tokenizer: A byte-level tokenizer, such as GPT-2's or of :func:`train_tokenizer`.

    Returns:
        Bytes by id, shape ``(vocab,)``, int64.

    Raises:
        ValueError: for a vocabulary that is not byte-level, whose tokens do not stand for bytes.

    Example:
        >>> tokenizer = train_tokenizer(["a rose is a rose"], 270)
        >>> sizes = bytes_of_tokens(tokenizer)
        >>> int(sizes[tokenizer.encode("rose ☀").ids].sum()), int(sizes[0])
        (8, 0)
    """
    content = json.loads(tokenizer.to_str())
    if "ByteLevel" not in {*_types(content["pre_tokenizer"]), *_types(content["decoder"])}:
        raise ValueError("tokenizer: expected a byte-level vocabulary, got one of another kind")
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    sizes = np.zeros(max(vocabulary.values()) + 1, np.int64)
    for token, index in vocabulary.items():
        sizes[index] = len(token)  # a character stands for a byte
    for index, token in tokenizer.get_added_tokens_decoder().items():
        sizes[index] = 0 if token.special else len(token.content.encode())
    return sizes


def _types(part: Any) -> Iterator[str]:
    """Kinds of the parts that a pre-tokenizer or decoder is made of."""
    if isinstance(part, dict):
        yield str(part.get("type"))
        for inner in part.values():
            yield from _types(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from _types(inner)
