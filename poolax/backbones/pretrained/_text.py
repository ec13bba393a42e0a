"""The tokenizer beside a language model's weights."""

import json

import tokenizers

from poolax._checks import check_choice
from poolax.backbones._tokens import TextPreprocess


def read_text_preprocess(directory, raw, config):
    """From ``tokenizer.json`` and ``tokenizer_config.json``; ``None`` if there is no tokenizer.

    Special tokens are those that the tokenizer adds to one text by itself.
    """
    path = directory / "tokenizer.json"
    if not path.exists():
        return None
    text = path.read_text()
    settings_path = directory / "tokenizer_config.json"
    settings = json.loads(settings_path.read_text()) if settings_path.exists() else {}
    try:
        tokenizer = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the tokenizers library raises nothing more precise
        raise ValueError(f"path_or_hub_id: expected a tokenizer in {path}, got: {error}") from None
    padding_side = settings.get("padding_side", "right")
    check_choice("padding_side", padding_side, ("right", "left"))
    prefix, suffix = _special_tokens(tokenizer)
    limits = [settings.get("model_max_length")]
    limits += [raw.get(field) for field in ("max_position_embeddings", "n_positions")]
    return TextPreprocess(
        text,
        # "No limit" stands in some files as a number with thirty digits.
        max_tokens=int(min(limit for limit in (*limits, 1_000_000) if limit)),
        prefix=prefix,
        suffix=suffix,
        padding_side=padding_side,
        pad_id=_pad_id(tokenizer, settings, raw),
    )


def _special_tokens(tokenizer):
    tokenizer.no_truncation()
    tokenizer.no_padding()
    with_special = tokenizer.encode("a")
    is_special = with_special.special_tokens_mask
    first = is_special.index(0) if 0 in is_special else len(is_special)
    last = len(is_special) - is_special[::-1].index(0) if 0 in is_special else len(is_special)
    return tuple(with_special.tokens[:first]), tuple(with_special.tokens[last:])


def _pad_id(tokenizer, settings, raw):
    token = settings.get("pad_token")
    token = token["content"] if isinstance(token, dict) else token
    found = None if token is None else tokenizer.token_to_id(token)
    if found is None:
        found = raw.get("pad_token_id")
    # Ids at padded positions are not looked at.
    return found if isinstance(found, int) and found >= 0 else 0
