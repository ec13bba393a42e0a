"""Families of language models against their reference implementations: hidden states of all layers."""

import chex
import numpy as np
import pytest
import tokenizers
from parity import assert_layers, build, reference, run, save, transformers

from poolax import backbones

NUM_TOKENS = 12
PAD_ID = 1

ENCODER = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "vocab_size": 50,
    "max_position_embeddings": 20,
}
DISTILBERT = {
    "dim": 16,
    "n_layers": 2,
    "n_heads": 4,
    "hidden_dim": 24,
    "vocab_size": 50,
    "max_position_embeddings": 20,
}

DECODER = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "vocab_size": 50,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GEMMA = DECODER | {"head_dim": 6, "sliding_window": 4, "query_pre_attn_scalar": 9}
MODERN = (
    ENCODER
    | {"local_attention": 6, "cls_token_id": 2, "sep_token_id": 3}
    | {key: DECODER[key] for key in ("pad_token_id", "bos_token_id", "eos_token_id")}
)
YARN = {
    "rope_type": "yarn",
    "rope_theta": 500.0,
    "factor": 4.0,
    # Shorter than the texts, whose queries then grow.
    "original_max_position_embeddings": 5,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.1,
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 500.0,
    "short_factor": [1.1, 1.3],
    "long_factor": [1.5, 3.0],
    "partial_rotary_factor": 0.5,
}


def two_ropes(full, sliding):
    kinds = {"full_attention": full, "sliding_attention": sliding}
    return {
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": theta} for kind, theta in kinds.items()
        }
    }


T5 = {"d_model": 16, "num_layers": 2, "num_heads": 4, "d_kv": 6, "d_ff": 24, "vocab_size": 50}
T5 |= {"decoder_start_token_id": 0}

CASES = {
    "roberta": ("Roberta", ENCODER | {"pad_token_id": PAD_ID}),
    "xlm-roberta-relu-eps": (
        "XLMRoberta",
        ENCODER | {"pad_token_id": PAD_ID, "hidden_act": "relu", "layer_norm_eps": 1e-3},
    ),
    "camembert-one-type": ("Camembert", ENCODER | {"pad_token_id": PAD_ID, "type_vocab_size": 1}),
    "electra": ("Electra", ENCODER | {"embedding_size": 8}),
    "electra-same-width": ("Electra", ENCODER | {"embedding_size": 16, "hidden_act": "gelu_new"}),
    "distilbert": ("DistilBert", DISTILBERT),
    "distilbert-sines": (
        "DistilBert",
        DISTILBERT | {"sinusoidal_pos_embds": True, "activation": "relu"},
    ),
    "mpnet": ("MPNet", ENCODER),
    "mpnet-relu-eps": ("MPNet", ENCODER | {"hidden_act": "relu", "layer_norm_eps": 1e-3}),
    "nomic": ("NomicBert", ENCODER),
    "nomic-theta": (
        "NomicBert",
        ENCODER
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 50.0}, "hidden_act": "gelu"},
    ),
    "mistral-head-dim": ("Mistral", DECODER | {"head_dim": 6, "sliding_window": 4}),
    "qwen3": ("Qwen3", DECODER | {"head_dim": 6}),
    "qwen3-window-biases": (
        "Qwen3",
        DECODER
        | {"head_dim": 4, "attention_bias": True, "use_sliding_window": True}
        | {"sliding_window": 4, "max_window_layers": 1},
    ),
    "phi3-window": ("Phi3", DECODER | {"sliding_window": 4}),
    "phi3-longrope-part": (
        "Phi3",
        DECODER
        | {"num_attention_heads": 2, "rope_parameters": LONGROPE}
        | {"max_position_embeddings": 56, "original_max_position_embeddings": 14},
    ),
    "gemma2": ("Gemma2", GEMMA | {"attn_logit_softcapping": 2.0}),
    "gemma2-uncapped": ("Gemma2", GEMMA | {"attn_logit_softcapping": None, "attention_bias": True}),
    "gemma3": ("Gemma3Text", GEMMA | {"sliding_window_pattern": 2} | two_ropes(900.0, 50.0)),
    "gemma3-sees-all": (
        "Gemma3Text",
        GEMMA
        | {"use_bidirectional_attention": True, "layer_types": ["full_attention"] * 2}
        | two_ropes(900.0, 50.0),
    ),
    "gemma3-window-to-both-sides": (
        "Gemma3Text",
        GEMMA
        | {"use_bidirectional_attention": True, "layer_types": ["sliding_attention"] * 2}
        | two_ropes(900.0, 50.0),
    ),
    "ministral3": (
        "Ministral3",
        DECODER | {"head_dim": 6, "rope_parameters": YARN, "max_position_embeddings": 56},
    ),
    "modernbert": (
        "ModernBert",
        MODERN | two_ropes(900.0, 50.0) | {"layer_types": ["full_attention", "sliding_attention"]},
    ),
    "modernbert-biases": (
        "ModernBert",
        MODERN
        | {"norm_bias": True, "attention_bias": True, "mlp_bias": True, "norm_eps": 1e-3}
        | {"hidden_activation": "relu", "global_attn_every_n_layers": 2},
    ),
    "eurobert": ("EuroBert", DECODER | {"mask_token_id": 3}),
    "eurobert-biases": (
        "EuroBert",
        DECODER | {"mask_token_id": 3, "attention_bias": True, "mlp_bias": True},
    ),
    "t5": ("T5", T5),
    "t5-gated-buckets": (
        "T5",
        T5
        | {"feed_forward_proj": "gated-gelu", "relative_attention_num_buckets": 8}
        | {"relative_attention_max_distance": 5, "layer_norm_epsilon": 1e-2},
    ),
    "mt5": ("MT5", T5 | {"feed_forward_proj": "gated-gelu"}),
    "umt5": ("UMT5", T5),
}
FIRST = dict(reversed(CASES.values()))
# What the cases of other classes show as well.
SLOW = (
    "nomic-theta",
    "mpnet-relu-eps",
    "electra-same-width",
    "gemma3-sees-all",
    "eurobert-biases",
    "mt5",
)
PARAMETERS = [
    pytest.param(*case, id=name, marks=[pytest.mark.slow] * (name in SLOW))
    for name, case in CASES.items()
]
# They count positions themselves, from ids of padding or not at all.
COUNTING = ("Roberta", "XLMRoberta", "Camembert", "MPNet", "T5", "MT5", "UMT5")


def masks():
    """Padding on the right, on the left, none, and a hole."""
    mask = np.ones((4, NUM_TOKENS), bool)
    mask[0, NUM_TOKENS - 3 :] = False
    mask[1, :4] = False
    mask[3, 3:5] = False
    return mask


@pytest.mark.parametrize(("name", "fields"), PARAMETERS)
def test_texts(name, fields, tmp_path):
    model = reference(name, fields, part="EncoderModel" if name.endswith("T5") else "Model")
    backbone = backbones.load(save(model, tmp_path))
    mask = masks()
    ids = np.random.default_rng(0).integers(2, 50, mask.shape)
    ids[~mask] = PAD_ID
    inputs = {"input_ids": ids, "attention_mask": mask.astype(int)}
    if name not in COUNTING:
        first = mask.argmax(axis=-1)[:, None]
        inputs["position_ids"] = np.maximum(np.arange(NUM_TOKENS) - first, 0)
    assert_layers(backbone, run(model, **inputs), ids, mask)
    if fields is not FIRST[name]:
        return
    # What compiles on its own, once for each class: a text by itself.
    alone = ids[2:3]
    states = np.asarray(backbone(alone).states)
    expected = run(model, input_ids=alone).last_hidden_state.numpy()
    assert np.abs(states - expected).max() <= 1e-5 * np.abs(expected).max()


ROBERTA = ENCODER | {"pad_token_id": PAD_ID}
VISION = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION |= {"image_size": 4, "patch_size": 2, "head_dim": 4}
HEADS = {
    "RobertaForMaskedLM": ROBERTA,
    "XLMRobertaForSequenceClassification": ROBERTA,
    "CamembertForTokenClassification": ROBERTA,
    "ElectraForPreTraining": ENCODER | {"embedding_size": 8},
    "ElectraForMaskedLM": ENCODER | {"embedding_size": 8},
    "DistilBertForMaskedLM": DISTILBERT,
    "DistilBertForSequenceClassification": DISTILBERT,
    "MPNetForMaskedLM": ENCODER,
    "NomicBertForMaskedLM": ENCODER,
    "Qwen3ForCausalLM": DECODER | {"head_dim": 6, "tie_word_embeddings": True},
    "Phi3ForCausalLM": DECODER,
    "Gemma2ForCausalLM": GEMMA,
    "Gemma3ForCausalLM": GEMMA,
    "ModernBertForMaskedLM": MODERN,
    "ModernBertForSequenceClassification": MODERN,
    "EuroBertForMaskedLM": DECODER | {"mask_token_id": 3},
    "T5ForConditionalGeneration": T5,
    "UMT5ForSequenceClassification": T5 | {"num_decoder_layers": 1},
    "Mistral3ForConditionalGeneration": {
        "text_config": DECODER | {"model_type": "ministral3", "head_dim": 6, "rope_parameters": YARN},
        "vision_config": VISION | {"model_type": "pixtral"},
    },
    "Gemma3ForConditionalGeneration": {
        "text_config": GEMMA | {"model_type": "gemma3_text"},
        "vision_config": VISION | {"model_type": "siglip_vision_model"},
        "mm_tokens_per_image": 4,
    },
}


@pytest.mark.parametrize("head", HEADS)
def test_heads_and_towers_of_others_are_left_aside(head, tmp_path):
    cls = getattr(transformers, head)
    model = build(cls, cls.config_class(**HEADS[head]))
    whole = backbones.load(save(model, tmp_path / "whole"))
    if head.startswith(("T5", "UMT5")):
        name = head.split("For")[0]
        inner = reference(name, HEADS[head], part="EncoderModel")
        states = {k: v for k, v in model.state_dict().items() if not k.startswith("decoder")}
        states = {k.removeprefix("transformer."): v for k, v in states.items()}
        inner.load_state_dict({k: states[k] for k in inner.state_dict()})
    else:
        inner = model.base_model
        inner = getattr(inner, "language_model", inner)
    alone = backbones.load(save(inner, tmp_path / "alone"))
    assert whole.config == alone.config
    chex.assert_trees_all_equal(whole.params, alone.params)


def test_texts_leave_room_for_rows_that_are_no_positions(tmp_path):
    save(reference("Roberta", ROBERTA), tmp_path)
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<pad>": 1, "a": 4}, unk_token="<pad>"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.save(str(tmp_path / "tokenizer.json"))
    roberta = backbones.load(tmp_path)
    ids, mask = roberta.preprocess(["a " * 30])
    assert ids.shape == (1, ENCODER["max_position_embeddings"] - PAD_ID - 1)
    assert np.all(np.isfinite(roberta(ids, mask).states))
    with pytest.raises(
        ValueError, match=r"inputs: expected at most max_tokens = 18 tokens, got n = 19"
    ):
        roberta(np.full((1, 19), 4))
