"""Checkpoints of BERT and what was made of it, in Hugging Face layout."""

import dataclasses
import functools

from poolax.backbones._bert import Bert, BertConfig
from poolax.backbones.pretrained._rotary import read_rotary
from poolax.backbones.pretrained._sources import (
    Architecture,
    Source,
    check_fields,
    dense,
    heads_in,
    heads_out,
    joint_heads,
    norm,
    read_count,
    read_field,
)
from poolax.backbones.pretrained._text import read_text_preprocess


@dataclasses.dataclass(frozen=True)
class _Names:
    """What a family calls its tensors; those of a block stand behind ``block``, with its number."""

    block: str = "encoder.layer.{}"
    embedding_norm: str = "embeddings.LayerNorm"
    joint: str = ""  # queries, keys and values in one
    query: str = "attention.self.query"
    key: str = "attention.self.key"
    value: str = "attention.self.value"
    out: str = "attention.output.dense"
    norm1: str = "attention.output.LayerNorm"
    hidden: str = "intermediate.dense"
    gate: str = ""
    ffn_out: str = "output.dense"
    norm2: str = "output.LayerNorm"


_BERT = _Names()
_DISTILBERT = _Names(
    block="transformer.layer.{}",
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    out="attention.out_lin",
    norm1="sa_layer_norm",
    hidden="ffn.lin1",
    ffn_out="ffn.lin2",
    norm2="output_layer_norm",
)
_MPNET = _Names(
    query="attention.attn.q",
    key="attention.attn.k",
    value="attention.attn.v",
    out="attention.attn.o",
    norm1="attention.LayerNorm",
)
_NOMIC = _Names(
    block="encoder.layers.{}",
    embedding_norm="emb_ln",
    joint="attn.Wqkv",
    out="attn.out_proj",
    norm1="norm1",
    hidden="mlp.fc11",
    gate="mlp.fc12",
    ffn_out="mlp.fc2",
    norm2="norm2",
)


def _sizes(raw, **fields):
    """What configurations of these families have in common; ``fields`` are this family's own."""
    implemented = {
        "position_embedding_type": ("absolute", None),
        "is_decoder": (False, None),
        "add_cross_attention": (False, None),
    }
    check_fields(raw, implemented)
    common = {
        "vocab_size": lambda: read_count(raw, "vocab_size"),
        "max_tokens": lambda: read_count(raw, "max_position_embeddings"),
        "width": lambda: read_count(raw, "hidden_size"),
        "num_layers": lambda: read_count(raw, "num_hidden_layers"),
        "num_heads": lambda: read_count(raw, "num_attention_heads"),
        "mlp_dim": lambda: read_count(raw, "intermediate_size"),
        "num_token_types": lambda: read_count(raw, "type_vocab_size"),
        "activation": lambda: read_field(raw, "hidden_act"),
        "norm_eps": lambda: read_field(raw, "layer_norm_eps"),
    }
    return BertConfig(**fields, **{name: read() for name, read in common.items() if name not in fields})


def read_config(raw, shapes):
    """From the fields of a BERT's configuration."""
    del shapes
    return _sizes(raw)


def read_roberta_config(raw, shapes):
    """From the fields of a RoBERTa's configuration."""
    del shapes
    return _sizes(raw, **_counted(raw, raw.get("pad_token_id", 1)))


def _counted(raw, pad_id):
    """Positions that are counted from the padding token's number."""
    if type(pad_id) is not int or pad_id < 0:
        raise ValueError(f"config: expected pad_token_id to be a whole number >= 0, got {pad_id!r}")
    return {"pad_id": pad_id, "max_tokens": read_count(raw, "max_position_embeddings") - pad_id - 1}


def read_electra_config(raw, shapes):
    """From the fields of an ELECTRA's configuration."""
    del shapes
    dim = read_count(raw, "embedding_size")
    return _sizes(raw, embedding_dim=None if dim == read_count(raw, "hidden_size") else dim)


def read_distilbert_config(raw, shapes):
    """From the fields of a DistilBERT's configuration; its sines stand in the table of positions."""
    del shapes
    return _sizes(
        raw,
        width=read_count(raw, "dim", "hidden_size"),
        num_layers=read_count(raw, "n_layers", "num_hidden_layers"),
        num_heads=read_count(raw, "n_heads", "num_attention_heads"),
        mlp_dim=read_count(raw, "hidden_dim"),
        num_token_types=0,
        activation=read_field(raw, "activation"),
        norm_eps=1e-12,
    )


def read_mpnet_config(raw, shapes):
    """From the fields of an MPNet's configuration; its padding token is 1 whatever that says."""
    del shapes
    # The reference library computes with 32, and with 128 as the largest distance, whatever is written.
    check_fields(raw, {"relative_attention_num_buckets": (32,)})
    return _sizes(raw, num_token_types=0, num_buckets=32, **_counted(raw, 1))


def read_nomic_config(raw, shapes):
    """From a Nomic BERT's configuration, with the reference library's fields or the authors' own."""
    del shapes
    implemented = {
        "prenorm": (False,),
        "qkv_proj_bias": (False,),
        "mlp_fc1_bias": (False,),
        "mlp_fc2_bias": (False,),
        "rotary_emb_fraction": (1,),
        "rotary_emb_interleaved": (False,),
        "rotary_emb_scale_base": (None,),
        "rotary_scaling_factor": (None,),
        "use_rms_norm": (False, None),
        "num_experts": (0, None),
    }
    check_fields(raw, implemented)
    width = read_count(raw, "hidden_size", "n_embd")
    num_heads = read_count(raw, "num_attention_heads", "n_head")
    check_fields(raw, {"head_dim": (None, width // num_heads)})
    activation = read_field(raw, "hidden_act", "activation_function")
    return _sizes(
        raw,
        max_tokens=read_count(raw, "max_position_embeddings", "n_positions"),
        width=width,
        num_layers=read_count(raw, "num_hidden_layers", "n_layer"),
        num_heads=num_heads,
        mlp_dim=read_count(raw, "intermediate_size", "n_inner"),
        activation="silu" if activation == "swiglu" else activation,
        norm_eps=read_field(raw, "layer_norm_eps", "layer_norm_epsilon"),
        rotary=read_rotary(raw, raw.get("rotary_emb_base", 1000.0)),
        use_gate=True,
        use_bias=False,
    )


def sources(names, config):
    """Every parameter's tensor."""
    tables = {"token": "word", "position": "position", "token_type": "token_type"}
    found = {
        f"embeddings/{ours}": Source((f"embeddings.{tables[ours]}_embeddings.weight",))
        for ours in config.table_sizes
    }
    found |= norm("embeddings/norm", names.embedding_norm)
    if config.embedding_dim is not None:
        found |= dense("embeddings/project", "embeddings_project")
    if config.num_buckets:
        found["encoder/relative_bias"] = Source(("encoder.relative_attention_bias.weight",))
    for index in range(config.num_layers):
        ours, theirs = f"encoder/block_{index}", names.block.format(index)
        heads = {"num_heads": config.num_heads, "bias": config.use_bias}
        if names.joint:
            found |= joint_heads(f"{ours}/attention", f"{theirs}.{names.joint}", **heads)
        else:
            for part in ("query", "key", "value"):
                theirs_part = f"{theirs}.{getattr(names, part)}"
                found |= heads_in(f"{ours}/attention/{part}", theirs_part, **heads)
        found |= heads_out(f"{ours}/attention/out", f"{theirs}.{names.out}", **heads)
        layers = {"hidden": names.hidden, "out": names.ffn_out}
        if config.use_gate:
            layers["gate"] = names.gate
        for part, name in layers.items():
            found |= dense(f"{ours}/ffn/{part}", f"{theirs}.{name}", bias=config.use_bias)
        found |= norm(f"{ours}/norm1", f"{theirs}.{names.norm1}")
        found |= norm(f"{ours}/norm2", f"{theirs}.{names.norm2}")
    return found


def _architecture(*model_types, read_config, names=_BERT, prefixes=(), heads=()):
    return Architecture(
        names=model_types,
        backbone=Bert,
        read_config=read_config,
        sources=functools.partial(sources, names),
        prefixes=prefixes,
        ignored=(
            r"embeddings\.position_ids",
            *(rf"{head}\..*" for head in ("pooler", "classifier", "qa_outputs", *heads)),
        ),
        read_preprocess=read_text_preprocess,
    )


BERT_FAMILIES = (
    _architecture("bert", read_config=read_config, prefixes=("bert.", "model."), heads=("cls",)),
    _architecture(
        *("roberta", "xlm-roberta", "camembert"),
        read_config=read_roberta_config,
        prefixes=("roberta.",),
        heads=("lm_head",),
    ),
    _architecture(
        "electra",
        read_config=read_electra_config,
        prefixes=("electra.",),
        heads=("discriminator_predictions", "generator_predictions", "generator_lm_head"),
    ),
    _architecture(
        "distilbert",
        read_config=read_distilbert_config,
        names=_DISTILBERT,
        prefixes=("distilbert.",),
        heads=("pre_classifier", "vocab_transform", "vocab_layer_norm", "vocab_projector"),
    ),
    _architecture(
        "mpnet",
        read_config=read_mpnet_config,
        names=_MPNET,
        prefixes=("mpnet.",),
        heads=("lm_head",),
    ),
    _architecture(
        "nomic_bert",
        read_config=read_nomic_config,
        names=_NOMIC,
        prefixes=("nomic_bert.",),
        heads=("cls",),
    ),
)
