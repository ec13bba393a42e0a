"""What a folder in Hugging Face layout would say of a backbone that was loaded from none."""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from poolax.attention import DotProduct
from poolax.backbones import _layers
from poolax.backbones._base import Backbone
from poolax.backbones._bert import Bert
from poolax.backbones._gpt2 import GPT2
from poolax.backbones._images import ImagePreprocess
from poolax.backbones._moment import Moment
from poolax.backbones._tokens import TextPreprocess, read_tokenizer
from poolax.backbones._vit import ViT
from poolax.backbones.pretrained._bert import BERT_FAMILIES
from poolax.backbones.pretrained._gpt2 import GPT2_CHECKPOINT
from poolax.backbones.pretrained._moment import MOMENT
from poolax.backbones.pretrained._origin import Origin
from poolax.backbones.pretrained._sources import Architecture, Source
from poolax.backbones.pretrained._text import special_tokens
from poolax.backbones.pretrained._vit import VIT_FAMILIES

Shape = tuple[int, ...]


def _gpt2_fields(config):
    return {
        "architectures": ["GPT2Model"],
        "vocab_size": config.vocab_size,
        "n_positions": config.max_tokens,
        "n_embd": config.width,
        "n_layer": config.num_layers,
        "n_head": config.num_heads,
        "n_inner": config.mlp_dim,
        "activation_function": config.activation,
        "layer_norm_epsilon": config.norm_eps,
        "scale_attn_by_inverse_layer_idx": config.scale_by_layer,
        "scale_attn_weights": config.kind == DotProduct(),
    }


def _bert_fields(config):
    return {
        "architectures": ["BertModel"],
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_tokens,
        "hidden_size": config.width,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.mlp_dim,
        "type_vocab_size": config.num_token_types,
        "hidden_act": config.activation,
        "layer_norm_eps": config.norm_eps,
    }


def _vit_fields(config):
    return {
        "architectures": ["ViTModel"],
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "num_channels": config.num_channels,
        "hidden_size": config.width,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.mlp_dim,
        "hidden_act": config.activation,
        "layer_norm_eps": config.norm_eps,
        "qkv_bias": config.use_qkv_bias,
    }


def _moment_fields(config):
    return {
        "model_name": "MOMENT",
        "transformer_type": "encoder_only",
        "task_name": "reconstruction" if config.use_head else "embedding",
        "seq_len": config.num_steps,
        "patch_len": config.patch_len,
        "patch_stride_len": config.patch_len,
        "value_embedding_bias": config.use_value_bias,
        "revin_affine": config.use_revin_affine,
        "t5_config": {
            "d_model": config.width,
            "num_layers": config.num_layers,
            "num_heads": config.num_heads,
            "d_kv": config.head_dim,
            "d_ff": config.mlp_dim,
            "feed_forward_proj": ("gated-" if config.use_gate else "")
            + ("gelu" if config.activation == "gelu_new" else config.activation),
            "relative_attention_num_buckets": config.num_buckets,
            "relative_attention_max_distance": config.max_distance,
            "layer_norm_epsilon": config.norm_eps,
        },
    }


def _vit_shapes(config):
    """Of tensors that are read in any shape, those that the reference has."""
    width, side = config.width, config.patch_size
    return {
        "embeddings.cls_token": (1, 1, width),
        "embeddings.position_embeddings": (1, 1 + config.num_patches, width),
        "embeddings.patch_embeddings.projection.weight": (width, config.num_channels, side, side),
    }


# The layout of each family that has one for models of one's own, and what its configuration says.
_LAYOUTS: dict[type[Backbone], tuple[Architecture, Callable[[Any], dict[str, Any]]]] = {
    GPT2: (GPT2_CHECKPOINT, _gpt2_fields),
    Bert: (BERT_FAMILIES[0], _bert_fields),
    ViT: (VIT_FAMILIES[0], _vit_fields),
    Moment: (MOMENT, _moment_fields),
}


def make_origin(backbone: Backbone) -> Origin:
    """The origin that a backbone would have if it had been loaded from what will be written of it.

    Args:
        backbone: One that was loaded from no folder.

    Returns:
        The origin: configuration, tokenizer's settings, names and shapes of tensors.

    Raises:
        ValueError: for a family without such a layout, or sizes and switches, a tokenizer or other
            preprocessing that its files cannot say.
    """
    if type(backbone) not in _LAYOUTS:
        families = ", ".join(family.__name__ for family in _LAYOUTS)
        raise ValueError(
            "backbone: expected one that was loaded from a folder in Hugging Face layout, or one of "
            f"{families}, got {type(backbone).__name__}"
        )
    architecture, fields_of = _LAYOUTS[type(backbone)]
    shapes = _layers.leaf_shapes(_by_block(backbone))
    known = _vit_shapes(backbone.config) if isinstance(backbone, ViT) else {}
    tensors = _stored(architecture.sources(backbone.config), shapes, known)
    raw = {"model_type": architecture.names[0], **fields_of(backbone.config)}
    files = _files_of(backbone, raw)
    stored = dict(tensors.values())
    try:
        found = architecture.read_config(raw, stored)
    except ValueError:
        found = None
    wanted, left_out = backbone.config, []
    if getattr(wanted, "use_mask_token", False):
        # The plain model has no token for hidden patches, and is the same without.
        wanted, left_out = dataclasses.replace(wanted, use_mask_token=False), ["embeddings.mask_token"]
    if found != wanted:
        raise ValueError(
            f"backbone: expected sizes and switches that a folder of {architecture.names[0]!r} can "
            f"say, got {backbone.config}"
        )
    fields = {
        "config": json.dumps(raw, indent=2),
        "files": files,
        "tensors": {path: [name, list(shape)] for path, (name, shape) in tensors.items()},
        "dtype": None,
        "left_out": left_out,
        "whole": {},
    }
    return Origin(json.dumps(fields))


def _by_block(backbone):
    params = backbone.params
    if not _layers.is_stacked(params["encoder"]):
        return params
    return {**params, "encoder": _layers.unstack_blocks(params["encoder"])}


def _stored(
    sources: Mapping[str, Source], shapes: Mapping[str, Shape], known: Mapping[str, Shape]
) -> dict[str, tuple[str, Shape]]:
    """Name and shape of the tensor of each parameter.

    The shape is a known one, or that from which ``convert`` makes all parameters that share it.
    """
    by_name: dict[str, list[str]] = {}
    for path, source in sources.items():
        by_name.setdefault(source.names[0], []).append(path)
    found = {}
    for name, paths in by_name.items():
        if any(path not in shapes for path in paths):
            raise ValueError(
                f"backbone: expected the parameter {paths[0]}, which a folder has, got none"
            )
        made = [(sources[path].convert, shapes[path]) for path in paths]
        fitting = (shape for shape in _candidates(made, known.get(name)) if _fits(shape, made))
        shape = next(fitting, None)
        if shape is None:
            raise ValueError(f"backbone: expected parameters of known shapes, got {paths[0]}")
        found |= dict.fromkeys(paths, (name, shape))
    return found


def _candidates(made, known):
    """Shapes that a tensor with so many numbers may have, those of fewer axes first."""
    if known is not None:
        yield known
        return
    total = sum(math.prod(shape) for _, shape in made)
    yield from ((), (total,)) if total == 1 else ((total,),)
    sides = {math.prod(shape[:cut]) for _, shape in made for cut in range(len(shape) + 1)}
    sides |= {math.prod(shape[cut:]) for _, shape in made for cut in range(len(shape) + 1)}
    sides |= {len(made) * side for side in sides}
    flat = [(side, total // side) for side in sorted(sides) if total % side == 0]
    yield from flat
    yield from ((1, *sizes) for sizes in flat)


def _fits(shape, made):
    """Whether every parameter comes from a tensor of this shape."""
    try:
        return all(np.shape(convert(np.zeros(shape, np.float32))) == wanted for convert, wanted in made)
    except (ValueError, IndexError):
        return False


def _files_of(backbone, raw):
    """Texts beside the configuration; the padding token's id is added to that."""
    preprocess = backbone.preprocess
    if preprocess is None or backbone.modality == "series":
        return {}
    if isinstance(preprocess, TextPreprocess):
        raw["pad_token_id"] = preprocess.pad_id
        return {"tokenizer_config.json": json.dumps(_tokenizer_settings(preprocess), indent=2)}
    if isinstance(preprocess, ImagePreprocess):
        return {"preprocessor_config.json": json.dumps(_image_settings(preprocess), indent=2)}
    raise ValueError(
        "preprocess: expected one that files of a folder can say, a TextPreprocess or an "
        f"ImagePreprocess, got {type(preprocess).__name__}"
    )


def _tokenizer_settings(preprocess):
    tokenizer = read_tokenizer(preprocess.tokenizer_json, "tokenizer_json")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": preprocess.max_tokens,
        "padding_side": preprocess.padding_side,
    }
    pad = tokenizer.id_to_token(preprocess.pad_id)
    if pad is not None:
        settings["pad_token"] = pad
    both = (preprocess.prefix, preprocess.suffix)
    if special_tokens(tokenizer, settings) != both:
        for tokens, name in zip(both, ("bos", "eos"), strict=True):
            if tokens:
                settings |= {f"{name}_token": tokens[0], f"add_{name}_token": True}
    if special_tokens(tokenizer, settings) != both or preprocess.prompts:
        raise ValueError(
            "preprocess: expected special tokens that the tokenizer adds by itself, or one at each "
            f"end, and no prompts, got {preprocess.prefix} and {preprocess.suffix}"
        )
    return settings


def _image_settings(preprocess):
    def numbers(value):
        return list(value) if isinstance(value, tuple) else value

    if preprocess.geometry is not None:
        raise ValueError("preprocess: expected none that resizes images, got one with a geometry")
    return {
        "do_resize": False,
        "rescale_factor": preprocess.scale,
        "image_mean": numbers(preprocess.mean),
        "image_std": numbers(preprocess.std),
    }
