"""Configurations of decoders, and of encoders made of their parts, in Hugging Face layout."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from poolax.attention import QueryGrowth
from poolax.backbones._decoder import DecoderConfig
from poolax.backbones.pretrained._rotary import read_rotary
from poolax.backbones.pretrained._sources import check_fields, read_count, read_field

_SLIDING, _FULL = "sliding_attention", "full_attention"
# Kinds of models with other towers than that of the text, which has a configuration of its own inside.
TOWERS = ("mistral3", "gemma3")

_Raw = Mapping[str, Any]


def read_config(raw: _Raw, shapes: Mapping[str, tuple[int, ...]]) -> DecoderConfig:
    """From the fields of a Hugging Face configuration."""
    del shapes
    if raw.get("quantization_config") is not None:
        raise ValueError("config: expected weights that are not quantized, got quantization_config")
    raw = read_tower(raw) or raw
    causal = raw.get("is_causal", True)
    check_fields({"is_causal": causal}, {"is_causal": (True, False)})
    num_layers = read_count(raw, "num_hidden_layers")
    num_heads = read_count(raw, "num_attention_heads")
    width = read_count(raw, "hidden_size")
    use_bias = raw.get("attention_bias", False)
    fields: dict[str, Any] = {
        "vocab_size": read_count(raw, "vocab_size"),
        "width": width,
        "num_layers": num_layers,
        "num_heads": num_heads,
        "num_kv_heads": raw.get("num_key_value_heads") or num_heads,
        "head_dim": raw.get("head_dim") or width // num_heads,
        "mlp_dim": read_count(raw, "intermediate_size"),
        "causal": causal,
        "use_qkv_bias": use_bias,
        "use_out_bias": use_bias,
        "use_mlp_bias": raw.get("mlp_bias", False),
        "activation": raw.get("hidden_activation") or raw.get("hidden_act") or "silu",
        "norm_eps": raw.get("norm_eps") or read_field(raw, "rms_norm_eps"),
    }
    fields |= _SWITCHES[raw["model_type"]](raw, num_layers)
    if fields.get("window") is not None and not causal:
        raise ValueError("config: expected no sliding window where is_causal is false, got one")
    if "rotary" not in fields:
        fields["rotary"] = read_rotary(raw)
    return DecoderConfig(**fields)


def read_tower(raw: _Raw) -> _Raw | None:
    """The configuration of the text's tower among others; ``None`` for a model of texts alone."""
    if raw["model_type"] not in TOWERS:
        return None
    inner = read_field(raw, "text_config")
    default = {"mistral3": "mistral", "gemma3": "gemma3_text"}[raw["model_type"]]
    inner = {"model_type": default, **inner}
    check_fields(inner, {"model_type": (default, "ministral3", "mistral")})
    return inner


def _llama(raw, num_layers):
    del raw, num_layers
    return {}


def _mistral(raw, num_layers):
    return _windows(raw, num_layers, raw.get("sliding_window"), [_SLIDING] * num_layers)


def _ministral3(raw, num_layers):
    fields = _mistral(raw, num_layers)
    rope = raw.get("rope_parameters") or {}
    if rope.get("llama_4_scaling_beta"):
        original = read_count(rope, "original_max_position_embeddings")
        fields["query_growth"] = QueryGrowth(rope["llama_4_scaling_beta"], original)
    return fields


def _qwen(raw, num_layers):
    window = raw.get("sliding_window") if raw.get("use_sliding_window", False) else None
    first = min(raw.get("max_window_layers", 28), num_layers)
    default = [_FULL] * first + [_SLIDING] * (num_layers - first)
    return _windows(raw, num_layers, window, default)


def _qwen2(raw, num_layers):
    return _qwen(raw, num_layers) | {"use_qkv_bias": True, "use_out_bias": False}


def _qwen3(raw, num_layers):
    return _qwen(raw, num_layers) | {"use_query_key_norm": True}


def _phi3(raw, num_layers):
    fields = _mistral(raw, num_layers)
    rope = dict(raw.get("rope_parameters") or raw.get("rope_scaling") or {})
    # Older files say "su" or "yarn" and mean what came to be called longrope.
    kind = rope.pop("rope_type", None) or rope.pop("type", None) or "default"
    rope["rope_type"] = "longrope" if kind in ("su", "yarn") else kind
    part = rope.pop("partial_rotary_factor", None) or raw.get("partial_rotary_factor") or 1.0
    plain = {**raw, "rope_parameters": rope, "partial_rotary_factor": None}
    rotary = read_rotary(plain)
    if part != 1:
        head_dim = raw.get("head_dim")
        head_dim = head_dim or read_count(raw, "hidden_size") // read_count(raw, "num_attention_heads")
        rotary = dataclasses.replace(rotary, num_turned=int(head_dim * part))
    return fields | {"rotary": rotary, "use_qkv_bias": False, "use_out_bias": False}


def _gemma(raw):
    return {
        "use_out_norms": True,
        "norms_from_one": True,
        "scale_embeddings": True,
        "logit_scale": (raw.get("query_pre_attn_scalar") or 256) ** -0.5,
        "soft_cap": raw.get("attn_logit_softcapping"),
        "activation": raw.get("hidden_activation") or "gelu_pytorch_tanh",
    }


def _gemma2(raw, num_layers):
    check_fields(raw, {"use_bidirectional_attention": (False, None)})
    default = [_FULL if index % 2 else _SLIDING for index in range(num_layers)]
    return _windows(raw, num_layers, raw.get("sliding_window"), default) | _gemma(raw)


def _gemma3(raw, num_layers):
    sees_all = raw.get("use_bidirectional_attention") or False
    window = raw.get("sliding_window")
    if sees_all and window is not None:
        # To both sides, the token itself in the middle.
        window = 2 * (window // 2) + 1
    every = raw.get("sliding_window_pattern") or 6
    default = [_SLIDING if (index + 1) % every else _FULL for index in range(num_layers)]
    fields = _windows(raw, num_layers, window, default) | _gemma(raw)
    fields |= {"use_query_key_norm": True, "causal": not sees_all}
    return fields | _two_rotaries(raw, 1_000_000.0, raw.get("rope_local_base_freq") or 10_000.0)


def _eurobert(raw, num_layers):
    del raw, num_layers
    return {"causal": False}


def _modernbert(raw, num_layers):
    every = raw.get("global_attn_every_n_layers") or 3
    default = [_SLIDING if index % every else _FULL for index in range(num_layers)]
    half = read_count(raw, "local_attention") // 2
    fields = _windows(raw, num_layers, 2 * half + 1, default)
    return (
        fields
        | _two_rotaries(
            raw, raw.get("global_rope_theta") or 160_000.0, raw.get("local_rope_theta") or 10_000.0
        )
        | {
            "causal": False,
            "norm": "layer",
            "use_norm_bias": raw.get("norm_bias", False),
            "use_embedding_norm": True,
            "activation": raw.get("hidden_activation") or "gelu",
            "max_tokens": read_count(raw, "max_position_embeddings"),
        }
    )


_SWITCHES: dict[str, Callable[[_Raw, int], dict[str, Any]]] = {
    "llama": _llama,
    "mistral": _mistral,
    "ministral3": _ministral3,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "phi3": _phi3,
    "gemma2": _gemma2,
    "gemma3_text": _gemma3,
    "eurobert": _eurobert,
    "modernbert": _modernbert,
}


def _windows(raw, num_layers, window, default):
    """The sliding window, if any block has one, and the blocks without it."""
    if window is None:
        return {}
    types = raw.get("layer_types") or default
    for kind in types:
        check_fields({"layer_types": kind}, {"layer_types": (_SLIDING, _FULL)})
    full = tuple(index for index, kind in enumerate(types) if kind == _FULL)
    return {} if len(full) == num_layers else {"window": window, "full_layers": full}


def _two_rotaries(raw, full_theta, window_theta):
    """Rotary positions of blocks without a window, and of those with one."""
    by_kind = raw.get("rope_parameters")
    if not isinstance(by_kind, Mapping) or not {_FULL, _SLIDING} & set(by_kind):
        # Older files stretch those of blocks without a window alone, as far as they stretch any.
        scaling = by_kind or raw.get("rope_scaling") or {}
        by_kind = {_FULL: {"rope_theta": raw.get("rope_theta") or full_theta, **scaling}, _SLIDING: {}}
    pairs = (("rotary", _FULL, full_theta), ("window_rotary", _SLIDING, window_theta))
    return {
        name: read_rotary(
            {**raw, "rope_theta": None, "rope_scaling": None, "rope_parameters": by_kind.get(kind)},
            theta,
        )
        for name, kind, theta in pairs
    }
