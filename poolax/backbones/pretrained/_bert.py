"""BERT checkpoints in Hugging Face layout."""

from poolax.backbones._bert import Bert, BertConfig
from poolax.backbones.pretrained._sources import (
    Architecture,
    Source,
    check_fields,
    dense,
    heads_in,
    heads_out,
    norm,
    read_count,
    read_field,
)
from poolax.backbones.pretrained._text import read_text_preprocess


def read_config(raw, shapes):
    """From the fields of a Hugging Face configuration."""
    del shapes
    implemented = {
        "position_embedding_type": ("absolute", None),
        "is_decoder": (False, None),
        "add_cross_attention": (False, None),
    }
    check_fields(raw, implemented)
    return BertConfig(
        vocab_size=read_count(raw, "vocab_size"),
        max_tokens=read_count(raw, "max_position_embeddings"),
        width=read_count(raw, "hidden_size"),
        num_layers=read_count(raw, "num_hidden_layers"),
        num_heads=read_count(raw, "num_attention_heads"),
        mlp_dim=read_count(raw, "intermediate_size"),
        num_token_types=read_count(raw, "type_vocab_size"),
        activation=read_field(raw, "hidden_act"),
        norm_eps=read_field(raw, "layer_norm_eps"),
    )


def sources(config):
    """Every parameter's tensor."""
    tables = {"token": "word", "position": "position", "token_type": "token_type"}
    found = {
        f"embeddings/{ours}": Source((f"embeddings.{theirs}_embeddings.weight",))
        for ours, theirs in tables.items()
    }
    found |= norm("embeddings/norm", "embeddings.LayerNorm")
    for index in range(config.num_layers):
        ours, theirs = f"encoder/block_{index}", f"encoder.layer.{index}"
        for part in ("query", "key", "value"):
            found |= heads_in(
                f"{ours}/attention/{part}",
                f"{theirs}.attention.self.{part}",
                num_heads=config.num_heads,
            )
        out = f"{theirs}.attention.output.dense"
        found |= heads_out(f"{ours}/attention/out", out, num_heads=config.num_heads)
        found |= norm(f"{ours}/norm1", f"{theirs}.attention.output.LayerNorm")
        found |= dense(f"{ours}/ffn/hidden", f"{theirs}.intermediate.dense")
        found |= dense(f"{ours}/ffn/out", f"{theirs}.output.dense")
        found |= norm(f"{ours}/norm2", f"{theirs}.output.LayerNorm")
    return found


BERT = Architecture(
    names=("bert",),
    backbone=Bert,
    read_config=read_config,
    sources=sources,
    prefixes=("bert.", "model."),
    ignored=(
        r"embeddings\.position_ids",
        r"pooler\..*",
        r"cls\..*",
        r"classifier\..*",
        r"qa_outputs\..*",
    ),
    read_preprocess=read_text_preprocess,
)
