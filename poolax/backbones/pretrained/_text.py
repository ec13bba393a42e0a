"""The tokenizer beside a language model's weights."""

from poolax._checks import check_choice, check_number
from poolax._files import reading
from poolax.backbones._tokens import TextPreprocess, read_tokenizer
from poolax.backbones.pretrained._sources import FETCH_AGAIN, read_json_object


def read_text_preprocess(directory, raw, config):
    """From ``tokenizer.json`` and ``tokenizer_config.json``; ``None`` if there is no tokenizer.

    Special tokens are those that the tokenizer adds to one text by itself, with the tokens of begin and
    end that ``add_bos_token`` and ``add_eos_token`` ask for, or without those that they rule out.
    """
    path = directory / "tokenizer.json"
    if not path.exists():
        return None
    with reading(path, "text in UTF-8", FETCH_AGAIN, ValueError):
        text = path.read_bytes().decode("utf-8")
    settings = read_json_object(directory / "tokenizer_config.json")
    with reading(path, "a tokenizer", FETCH_AGAIN, ValueError):
        tokenizer = read_tokenizer(text, "content")
    padding_side = settings.get("padding_side") or "right"
    check_choice("padding_side", padding_side, ("right", "left"))
    prefix, suffix = special_tokens(tokenizer, settings)
    # Positions that are counted from the padding token's number leave fewer than the table has rows.
    limits = [settings.get("model_max_length"), getattr(config, "max_tokens", None)]
    limits += [raw.get(field) for field in ("max_position_embeddings", "n_positions")]
    limits = [limit for limit in limits if limit is not None]
    for limit in limits:
        # As a float, for "no limit" stands in some files as a number with thirty digits.
        check_number("model_max_length", float(limit) if isinstance(limit, int) else limit, above=0)
    return TextPreprocess(
        text,
        max_tokens=int(min([*limits, 1_000_000])),
        prefix=prefix,
        suffix=suffix,
        padding_side=padding_side,
        pad_id=_pad_id(tokenizer, settings, raw),
    )


def special_tokens(tokenizer, settings):
    """Tokens in front and at the end of a text, with or without those that settings name."""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    with_special = tokenizer.encode("a")
    is_special = with_special.special_tokens_mask
    first = is_special.index(0) if 0 in is_special else len(is_special)
    last = len(is_special) - is_special[::-1].index(0) if 0 in is_special else len(is_special)
    prefix, suffix = list(with_special.tokens[:first]), list(with_special.tokens[last:])
    for tokens, flag, field in (
        (prefix, "add_bos_token", "bos_token"),
        (suffix, "add_eos_token", "eos_token"),
    ):
        token = _content(settings.get(field))
        if token is None or settings.get(flag) is None:
            continue
        if settings[flag] and token not in tokens:
            tokens.append(token)
        if not settings[flag] and token in tokens:
            tokens.remove(token)
    return tuple(prefix), tuple(suffix)


def _content(token):
    return token["content"] if isinstance(token, dict) else token


def _pad_id(tokenizer, settings, raw):
    token = _content(settings.get("pad_token"))
    found = None if token is None else tokenizer.token_to_id(token)
    if found is None:
        found = raw.get("pad_token_id")
    # Ids at padded positions are not looked at.
    return found if isinstance(found, int) and found >= 0 else 0
