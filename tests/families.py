"""A small backbone of every family, with inputs."""

import jax
import numpy as np

from poolax import backbones
from poolax.attention import L2, LinearScaling, Llama3Scaling, QueryGrowth, Rotary

KEY = jax.random.key(0)
NUM_TOKENS = 7


def vit():
    config = backbones.ViTConfig(8, 4, 3, width=16, num_layers=2, num_heads=2, mlp_dim=24)
    return backbones.ViT.init(config, KEY)


def bert():
    config = backbones.BertConfig(50, 12, width=16, num_layers=2, num_heads=2, mlp_dim=24)
    return backbones.Bert.init(config, KEY)


def gpt2(kind=backbones.GPT2Config.kind):
    config = backbones.GPT2Config(50, 12, width=16, num_layers=2, num_heads=2, mlp_dim=24, kind=kind)
    return backbones.GPT2.init(config, KEY)


def decoder():
    config = backbones.DecoderConfig(
        52,
        width=16,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=6,
        mlp_dim=24,
        rotary=Rotary(500.0, Llama3Scaling(8.0, 1.0, 4.0, 8)),
        window=4,
        use_qkv_bias=True,
    )
    return backbones.Decoder.init(config, KEY)


FAMILIES = {
    "vit": vit,
    "bert": bert,
    "gpt2": gpt2,
    "gpt2-l2": lambda: gpt2(L2()),
    "gpt2-l2-plain": lambda: gpt2(L2(plain_values=True)),
    "decoder": decoder,
}


def moment():
    config = backbones.MomentConfig(
        24, 4, 8, width=16, num_layers=2, num_heads=2, head_dim=4, mlp_dim=24
    )
    return backbones.Moment.init(config, KEY)


def timesfm():
    config = backbones.TimesFMConfig(
        24, 4, 16, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=6, mlp_dim=24
    )
    return backbones.TimesFM.init(config, KEY)


def patchtst():
    """Batch norms, and patches that overlap and leave steps over."""
    config = backbones.PatchTSTConfig(24, 5, 4, width=16, num_layers=2, num_heads=2, mlp_dim=24)
    return backbones.PatchTST.init(config, KEY)


SMALL_STAGES = {"patch_size": 2, "width": 8, "depths": (2, 1), "num_heads": (2, 4), "window_size": 4}


def swin():
    return backbones.Swin.init(backbones.SwinConfig(18, **SMALL_STAGES), KEY)


def lipsformer():
    return backbones.LipsFormer.init(backbones.LipsFormerConfig(16, **SMALL_STAGES), KEY)


def dinov3():
    """Registers, layer scale, gates, rotary patches, and keys alone without a bias."""
    config = backbones.ViTConfig(
        *(8, 4, 3, 16, 2, 2, 24),
        norm_eps=1e-6,
        use_qkv_bias=("query", "value"),
        activation="silu",
        layer_scale=0.5,
        use_gate=True,
        num_registers=2,
        rotary_theta=100.0,
    )
    return backbones.ViT.init(config, KEY).replace(grid=(2, 3))


def bert_switched():
    """A BERT with what others of its kind have: counted positions, projected embeddings, a bias."""
    config = backbones.BertConfig(
        *(50, 12),
        width=16,
        num_layers=2,
        num_heads=2,
        mlp_dim=24,
        num_token_types=0,
        embedding_dim=8,
        pad_id=1,
        num_buckets=8,
        max_distance=10,
        use_gate=True,
        use_bias=False,
    )
    return backbones.Bert.init(config, KEY)


def decoder_switched():
    """A decoder with what Gemma and Qwen3 have."""
    config = backbones.DecoderConfig(
        52,
        width=16,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=6,
        mlp_dim=24,
        rotary=Rotary(500.0, LinearScaling(2.0)),
        window=4,
        full_layers=(1,),
        window_rotary=Rotary(100.0, num_turned=4),
        use_out_norms=True,
        use_query_key_norm=True,
        logit_scale=0.3,
        soft_cap=2.0,
        scale_embeddings=True,
        norms_from_one=True,
        query_growth=QueryGrowth(2.0, 3),
    )
    return backbones.Decoder.init(config, KEY)


def rotary_encoder():
    """What ModernBERT has."""
    config = backbones.DecoderConfig(
        52,
        width=16,
        num_layers=2,
        num_heads=4,
        num_kv_heads=4,
        head_dim=4,
        mlp_dim=24,
        window=5,
        full_layers=(0,),
        causal=False,
        norm="layer",
        use_norm_bias=True,
        use_embedding_norm=True,
    )
    return backbones.RotaryEncoder.init(config, KEY)


def t5():
    """A T5 whose blocks have biases of their own."""
    config = backbones.T5Config(
        *(52, 16, 2, 2),
        head_dim=6,
        mlp_dim=24,
        activation="gelu_new",
        use_gate=True,
        num_buckets=8,
        max_distance=5,
        bias_by_block=True,
    )
    return backbones.T5.init(config, KEY)


# With every switch set that the configurations above leave alone.
SWITCHED = {
    "bert": bert_switched,
    "decoder": decoder_switched,
    "encoder": rotary_encoder,
    "t5": t5,
}


# With tests of their own for what they do not share with the others.
OTHER_FAMILIES = {"moment": moment, "swin": swin, "lipsformer": lipsformer, "dinov3": dinov3}
OTHER_FAMILIES |= {"timesfm": timesfm, "patchtst": patchtst}
ALL_FAMILIES = FAMILIES | OTHER_FAMILIES
STACKABLE = (*FAMILIES, "moment", "dinov3", "timesfm", "patchtst")
TEXT_FAMILIES = ("bert", "gpt2", "gpt2-l2", "decoder")


def inputs(name, batch=2):
    """Inputs of a family."""
    rng = np.random.default_rng(0)
    sizes = {"vit": (8, 8), "swin": (18, 18), "lipsformer": (16, 16), "dinov3": (8, 12)}
    if name in sizes:
        return rng.normal(size=(batch, *sizes[name], 3)).astype(np.float32)
    if name in ("moment", "timesfm", "patchtst"):
        return rng.normal(size=(batch, 24)).astype(np.float32)
    return rng.integers(0, 50, (batch, NUM_TOKENS))


def scrambled(backbone, key=KEY):
    """The same backbone with random biases and norm scales as well."""
    leaves, tree = jax.tree.flatten(backbone.params)
    keys = jax.random.split(key, len(leaves))
    noisy = [
        leaf + 0.1 * jax.random.normal(k, leaf.shape) for leaf, k in zip(leaves, keys, strict=True)
    ]
    return backbone.replace(params=jax.tree.unflatten(tree, noisy))
