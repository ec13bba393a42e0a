"""Which texts a sentence-transformers folder reads: how long, in which case, with which prompts."""

import dataclasses
import json
import pathlib

from poolax._checks import check_count, check_instance
from poolax._files import reading
from poolax.backbones._tokens import TextPreprocess
from poolax.backbones.pretrained._sources import ODD_FIELDS, check_fields, read_json_object

SETTINGS_FILE = "config_sentence_transformers.json"
TRANSFORMER_FILE = "sentence_bert_config.json"
_FORMER_FILES = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
# What they say changes where and how fast the reference computes.
_HARMLESS = {"attn_implementation", "device_map", "dtype", "low_cpu_mem_usage", "torch_dtype",
             "trust_remote_code", "use_safetensors", "add_pooling_layer"}  # fmt: skip


def read_text_settings(
    folder: pathlib.Path,
    transformer: pathlib.Path,
    preprocess: TextPreprocess,
    *,
    most: int | None,
    include_prompt: bool,
) -> TextPreprocess:
    """What a folder's own settings make of the preprocessing that its tokenizer describes.

    Args:
        folder: The model's.
        transformer: That of its Transformer.
        preprocess: What the tokenizer's files say.
        most: Most tokens that the backbone takes; ``None`` if there is no limit.
        include_prompt: Whether tokens of a prompt are pooled.

    Raises:
        ValueError: for settings that are not implemented.
    """
    names = (TRANSFORMER_FILE, *_FORMER_FILES)
    path = next((transformer / name for name in names if (transformer / name).exists()), None)
    with reading(path or folder, "settings that are supported", "choose another model", *ODD_FIELDS):
        preprocess = preprocess if path is None else _of_transformer(path, preprocess, most)
    path = folder / SETTINGS_FILE
    with reading(path, "settings that are supported", "choose another model", *ODD_FIELDS):
        fields = read_json_object(path)
        check_fields(fields, {"truncate_dim": (None,)})
        prompts = fields.get("prompts") or {}
        for name, text in prompts.items():
            check_instance(f"prompts[{name!r}]", text, (str, type(None)), "a text")
        return dataclasses.replace(
            preprocess,
            prompts=tuple((name, text or "") for name, text in prompts.items()),
            default_prompt=fields.get("default_prompt_name"),
            include_prompt=include_prompt,
        )


def _of_transformer(path, preprocess, most):
    fields = read_json_object(path)
    implemented = {
        "transformer_task": ("feature-extraction",),
        "module_output_name": ("token_embeddings",),
        "query_length": (None,),
        "document_length": (None,),
        "query_expansion": (None,),
    }
    check_fields(fields, implemented)
    output = fields.get("modality_config", {}).get("text", {}).get("method_output_name")
    check_fields({"method_output_name": output}, {"method_output_name": ("last_hidden_state", None)})
    if "message" in fields.get("modality_config", {}):
        raise ValueError("modality_config: expected plain texts, got messages of a chat template")
    of_tokenizer = None
    for kind in ("model", "config", "tokenizer", "processor"):
        for name in (f"{kind}_args", f"{kind}_kwargs"):
            options = dict(fields.get(name) or {})
            if kind in ("tokenizer", "processor"):
                of_tokenizer = options.pop("model_max_length", of_tokenizer)
                side = options.pop("padding_side", preprocess.padding_side)
                preprocess = dataclasses.replace(preprocess, padding_side=side)
            unknown = sorted(set(options) - _HARMLESS)
            if unknown:
                raise ValueError(f"{name}: expected none that change results, got {', '.join(unknown)}")
    text = fields.get("processing_kwargs", {}).get("text", {})
    check_fields(text, {"truncation": (True, "longest_first"), "padding": (True, "longest")})
    limit = text.get("max_length") or of_tokenizer or fields.get("max_seq_length")
    if limit is not None:
        check_count("max_seq_length", limit)
        preprocess = dataclasses.replace(preprocess, max_tokens=min(limit, most or limit))
    if fields.get("do_lower_case"):
        lower = _in_lower_case(preprocess.tokenizer_json)
        preprocess = dataclasses.replace(preprocess, tokenizer_json=lower)
    return preprocess


def _in_lower_case(tokenizer_json):
    """The tokenizer with lower-casing in front of its own normalisation, unless it has that."""
    tokenizer = json.loads(tokenizer_json)
    own = tokenizer.get("normalizer")
    steps = own["normalizers"] if own and own["type"] == "Sequence" else [own] if own else []
    if any(step["type"] == "Lowercase" for step in steps):
        return tokenizer_json
    tokenizer["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, *steps]}
    return json.dumps(tokenizer, ensure_ascii=False)
