"""Rotary positions as configurations in Hugging Face layout describe them."""

import math

from poolax.attention import (
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    Rotary,
    YarnScaling,
    yarn_magnitude,
)
from poolax.backbones.pretrained._sources import check_fields, read_field


def read_rotary(raw, default_theta=10_000.0):
    """Rotary positions from ``rope_parameters``, or the older ``rope_theta`` and ``rope_scaling``."""
    fields = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    if not isinstance(fields, dict) or any(isinstance(value, dict) for value in fields.values()):
        raise ValueError(
            f"config: expected rope_parameters to be one object for all layers, got {fields!r}"
        )
    theta = fields.get("rope_theta") or raw.get("rope_theta") or default_theta
    kind = fields.get("rope_type", fields.get("type", "default"))
    known = ("default", "linear", "dynamic", "yarn", "longrope", "llama3")
    check_fields({"rope_type": kind}, {"rope_type": known})
    for place in (raw, fields):
        check_fields(place, {"partial_rotary_factor": (1, None)})
    if kind == "default":
        return Rotary(theta)
    if kind == "linear":
        return Rotary(theta, LinearScaling(read_field(fields, "factor")))
    original = fields.get("original_max_position_embeddings")
    original = original or read_field(
        raw, "original_max_position_embeddings", "max_position_embeddings"
    )
    longest = raw.get("max_position_embeddings") or original
    return Rotary(theta, _SCALINGS[kind](fields, original, longest))


def _dynamic(fields, original, longest):
    del original
    return DynamicScaling(read_field(fields, "factor"), longest)


def _yarn(fields, original, longest):
    factor = fields.get("factor") or longest / original
    magnitude = fields.get("attention_factor")
    numerator, denominator = fields.get("mscale"), fields.get("mscale_all_dim")
    if magnitude is None and numerator and denominator:
        magnitude = yarn_magnitude(factor, numerator) / yarn_magnitude(factor, denominator)
    return YarnScaling(
        factor,
        original,
        beta_fast=fields.get("beta_fast") or 32.0,
        beta_slow=fields.get("beta_slow") or 1.0,
        magnitude=magnitude,
        truncate=fields.get("truncate", True),
    )


def _longrope(fields, original, longest):
    factor = fields.get("factor") or longest / original
    magnitude = fields.get("attention_factor")
    if magnitude is None:
        magnitude = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    return LongRopeScaling(
        tuple(read_field(fields, "short_factor")),
        tuple(read_field(fields, "long_factor")),
        original,
        magnitude,
    )


def _llama3(fields, original, longest):
    del longest
    return Llama3Scaling(
        read_field(fields, "factor"),
        read_field(fields, "low_freq_factor"),
        read_field(fields, "high_freq_factor"),
        original,
    )


_SCALINGS = {
    "dynamic": _dynamic,
    "yarn": _yarn,
    "longrope": _longrope,
    "llama3": _llama3,
}
