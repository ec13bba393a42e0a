"""PatchTST checkpoints in Hugging Face layout."""

from poolax.backbones._patchtst import PatchTST, PatchTSTConfig
from poolax.backbones._series_context import SeriesContext
from poolax.backbones.pretrained._sources import (
    Architecture,
    Source,
    check_fields,
    dense,
    heads_in,
    heads_out,
    norm,
)

_SCALINGS = {"std": "std", "mean": "mean", True: "mean", None: "none", False: "none"}
_NORMS = {"batchnorm": "batch", "layernorm": "layer"}
_ACTIVATIONS = ("gelu", "relu")


def read_config(raw, shapes):
    """From the fields of a Hugging Face configuration; input is not masked, as in pretraining it is."""
    del shapes
    own = PatchTSTConfig()
    implemented = {
        "channel_attention": (False,),
        "norm_type": tuple(_NORMS),
        "scaling": tuple(_SCALINGS),
        "activation_function": _ACTIVATIONS,
        "scaling_dim": (1,),
        "keepdim": (True,),
        "minimum_scale": (None,),
        "default_scale": (None,),
    }
    check_fields(raw, implemented)
    return PatchTSTConfig(
        num_steps=raw.get("context_length", own.num_steps),
        patch_len=raw.get("patch_length", own.patch_len),
        patch_stride=raw.get("patch_stride", own.patch_stride),
        num_channels=raw.get("num_input_channels", own.num_channels),
        width=raw.get("d_model", own.width),
        num_layers=raw.get("num_hidden_layers", own.num_layers),
        num_heads=raw.get("num_attention_heads", own.num_heads),
        mlp_dim=raw.get("ffn_dim", own.mlp_dim),
        activation=raw.get("activation_function", own.activation),
        norm=_NORMS[raw.get("norm_type", "batchnorm")],
        norm_eps=raw.get("norm_eps", own.norm_eps),
        norm_first=raw.get("pre_norm", own.norm_first),
        use_mlp_bias=raw.get("bias", own.use_mlp_bias),
        use_cls=raw.get("use_cls_token", own.use_cls),
        scaling=_SCALINGS[raw.get("scaling", "std")],
        share_embedding=raw.get("share_embedding", own.share_embedding),
    )


def sources(config):
    """Every parameter's tensor."""
    value, positions = "encoder.embedder.input_embedding", "encoder.positional_encoder"
    found = {}
    if config.share_embedding:
        found |= dense("embeddings/value", value)
    else:
        for index in range(config.num_channels):
            found |= dense(f"embeddings/value_{index}", f"{value}.{index}")
    found["embeddings/position"] = Source((f"{positions}.position_enc",))
    if config.use_cls:
        found["embeddings/cls"] = Source((f"{positions}.cls_token",), lambda x: x.reshape(x.shape[3:]))
    for index in range(config.num_layers):
        found |= _block(config, f"encoder/block_{index}", f"encoder.layers.{index}")
    return found


def _block(config, ours, theirs):
    found, attention = {}, f"{theirs}.self_attn"
    for part in ("query", "key", "value"):
        name = f"{attention}.{part[0]}_proj"
        found |= heads_in(f"{ours}/attention/{part}", name, num_heads=config.num_heads)
    found |= heads_out(f"{ours}/attention/out", f"{attention}.out_proj", num_heads=config.num_heads)
    for part, index in {"hidden": 0, "out": 3}.items():
        found |= dense(f"{ours}/ffn/{part}", f"{theirs}.ff.{index}", bias=config.use_mlp_bias)
    # The second norm of theirs is that of attention over channels.
    for part, name in {"norm1": "norm_sublayer1", "norm2": "norm_sublayer3"}.items():
        if config.norm == "layer":
            found |= norm(f"{ours}/{part}", f"{theirs}.{name}")
            continue
        name = f"{theirs}.{name}.batchnorm"
        found |= norm(f"{ours}/{part}", name)
        for statistic in ("mean", "var"):
            found[f"{ours}/{part}/{statistic}"] = Source((f"{name}.running_{statistic}",))
    return found


def read_preprocess(directory, raw, config):
    """The last steps of long series, and short ones padded to the length that the model takes."""
    del directory, raw
    return SeriesContext(config.num_steps, config.num_steps)


PATCHTST = Architecture(
    names=("patchtst",),
    backbone=PatchTST,
    read_config=read_config,
    sources=sources,
    prefixes=("model.",),
    ignored=(r"head\..*", r".*\.num_batches_tracked"),
    read_preprocess=read_preprocess,
)
