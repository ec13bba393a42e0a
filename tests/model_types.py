"""A tiny checkpoint of every ``model_type`` that loads, and what it reads."""

import dataclasses
import json
import re
from typing import Any

import numpy as np
from parity import reference, run, save, torch
from safetensors.numpy import save_file
from test_moment import RAW, state_dict
from test_parity_eva import eva_names
from test_parity_series import PATCHTST, TIMESFM
from test_parity_texts import DECODER, DISTILBERT, ENCODER, GEMMA, MODERN, ROBERTA, T5, VISION, YARN
from test_parity_timm import timm_names
from test_parity_vision import DINOV2, SIGLIP2, VIT, images, run_on_images
from test_swin import golden

from poolax import backbones

GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 4, "vocab_size": 50, "n_positions": 20}
SWIN = {"image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2]}
MINISTRAL = DECODER | {"head_dim": 6, "rope_parameters": YARN, "max_position_embeddings": 56}
TEXT = {"vocab_size": 50, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
BEIT = VIT | {"use_relative_position_bias": True, "layer_norm_eps": 1e-6}
DINOV3 = VIT | {"num_register_tokens": 2, "query_bias": False, "value_bias": False}
TIMM_CASES = {
    "timm_eva": ("DINOv3ViT", DINOV3, "vit_small_patch16_dinov3", "avg"),
    "timm_vit": ("ViT", VIT | {"layer_norm_eps": 1e-6}, "vit_tiny_patch4_16", "token"),
    "timm_beit": ("Beit", BEIT, "beit_base_patch4_16", "avg"),
}

# The class of the reference without its ending, and fields of its configuration.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("ViT", VIT),
    "deit": ("DeiT", VIT),
    "vit_mae": ("ViTMAE", VIT | {"mask_ratio": 0.0}),
    "vit_msn": ("ViTMSN", VIT),
    "beit": ("Beit", BEIT),
    "dinov2": ("Dinov2", DINOV2),
    "dinov2_with_registers": ("Dinov2WithRegisters", DINOV2 | {"num_register_tokens": 3}),
    "dinov3_vit": ("DINOv3ViT", VIT | {"num_register_tokens": 2}),
    "clip_vision_model": ("CLIPVision", VIT),
    "siglip_vision_model": ("SiglipVision", VIT | {"vision_use_head": False}),
    "siglip2_vision_model": ("Siglip2Vision", SIGLIP2 | {"vision_use_head": False}),
    "clip": ("CLIP", {"text_config": TEXT, "vision_config": VIT}),
    "siglip": ("Siglip", {"text_config": TEXT, "vision_config": VIT}),
    "siglip2": ("Siglip2", {"text_config": TEXT, "vision_config": SIGLIP2}),
    "swin": ("Swin", SWIN | {"window_size": 4}),
    "bert": ("Bert", ENCODER),
    "roberta": ("Roberta", ROBERTA),
    "xlm-roberta": ("XLMRoberta", ROBERTA),
    "camembert": ("Camembert", ROBERTA),
    "electra": ("Electra", ENCODER | {"embedding_size": 8}),
    "distilbert": ("DistilBert", DISTILBERT),
    "mpnet": ("MPNet", ENCODER),
    "nomic_bert": ("NomicBert", ENCODER),
    "gpt2": ("GPT2", GPT2 | {"bos_token_id": 1, "eos_token_id": 1}),
    "llama": ("Llama", DECODER),
    "mistral": ("Mistral", DECODER | {"sliding_window": 4}),
    "ministral3": ("Ministral3", MINISTRAL),
    "mistral3": (
        "Mistral3",
        {
            "text_config": MINISTRAL | {"model_type": "ministral3"},
            "vision_config": VISION | {"model_type": "pixtral"},
        },
    ),
    "qwen2": ("Qwen2", DECODER),
    "qwen3": ("Qwen3", DECODER | {"head_dim": 6}),
    "phi3": ("Phi3", DECODER | {"sliding_window": 4}),
    "gemma2": ("Gemma2", GEMMA | {"attn_logit_softcapping": 2.0}),
    "gemma3_text": ("Gemma3Text", GEMMA | {"sliding_window_pattern": 2}),
    "gemma3": (
        "Gemma3",
        {
            "text_config": GEMMA | {"model_type": "gemma3_text"},
            "vision_config": VISION | {"model_type": "siglip_vision_model"},
            "mm_tokens_per_image": 4,
        },
    ),
    "modernbert": ("ModernBert", MODERN),
    "eurobert": ("EuroBert", DECODER | {"mask_token_id": 3}),
    "t5": ("T5", T5),
    "mt5": ("MT5", T5 | {"feed_forward_proj": "gated-gelu"}),
    "umt5": ("UMT5", T5),
    "timesfm2_5": ("TimesFm2_5", TIMESFM),
    "patchtst": ("PatchTST", PATCHTST),
}
MODEL_TYPES = (*CASES, *TIMM_CASES, "lipsformer_swin", "moment")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A folder that was written by the reference, or for those that have none by its names.

    Attributes:
        folder: Where it is.
        model: The reference model; ``None`` where the reference library has none.
    """

    folder: Any
    model: Any = None


def write_checkpoint(model_type, folder) -> Checkpoint:
    """Write a tiny checkpoint with random parameters."""
    if model_type in CASES:
        name, fields = CASES[model_type]
        model = reference(name, fields, part="EncoderModel" if name.endswith("T5") else "Model")
        save(model, folder)
        # Of a model of several towers the text's is read.
        return Checkpoint(folder, getattr(model, "language_model", model))
    tensors, config = _of_others(model_type, folder)
    folder.mkdir()
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return Checkpoint(folder)


def _of_others(model_type, folder):
    if model_type == "moment":
        return state_dict(RAW), {"model_type": "moment", **RAW}
    if model_type == "lipsformer_swin":
        _, tensors, config, _ = golden(np.float32)
        return tensors, config
    name, fields, architecture, pool = TIMM_CASES[model_type]
    hub = folder.with_name(f"{folder.name}-hub")
    backbone = backbones.load(save(reference(name, fields), hub))
    tensors = timm_names(backbone)
    if model_type == "timm_eva":
        tensors = eva_names(tensors)
    if model_type == "timm_beit":
        for key in [key for key in tensors if key.endswith("attn.qkv.bias")]:
            stem = key.removesuffix("qkv.bias")
            tensors[f"{stem}q_bias"], _, tensors[f"{stem}v_bias"] = np.split(tensors.pop(key), 3)
        tensors = {re.sub(r"ls(\d)\.gamma", r"gamma_\1", key): tensors[key] for key in tensors}
        for key, table in backbone.params["encoder"]["relative_bias"].items():
            tensors[f"blocks.{key[-1]}.attn.relative_position_bias_table"] = np.asarray(table)
    config = {"model_type": model_type, "architecture": architecture, "global_pool": pool}
    config["pretrained_cfg"] = {"input_size": [3, 16, 16]}
    return tensors, config | {"model_args": {"num_heads": 4}}


def inputs_of(backbone):
    """A batch of inputs, and a mask for texts."""
    if backbone.modality == "vision":
        side = getattr(backbone.config, "image_size", 16)
        fields = {"num_channels": backbone.config.num_channels}
        return images(fields, (side, side), count=2), None
    rng = np.random.default_rng(0)
    if backbone.modality == "series":
        return rng.normal(size=(2, 3, backbone.config.num_steps)).astype(np.float32), None
    mask = np.ones((2, 12), bool)
    mask[0, 9:] = False
    return np.where(mask, rng.integers(2, 50, mask.shape), 1), mask


def states_of(model_type, model, inputs, mask):
    """Hidden states of the reference."""
    name = CASES[model_type][0]
    with torch.inference_mode():
        if name == "TimesFm2_5":
            out = run(model, past_values=inputs.reshape(-1, inputs.shape[-1]))
        elif name == "PatchTST":
            out = run(model, past_values=inputs.swapaxes(-1, -2).copy())
        elif mask is None:
            out = run_on_images(name, model, inputs)
        else:
            ids, seen = (torch.tensor(array) for array in (inputs, mask.astype(np.int64)))
            out = model(input_ids=ids, attention_mask=seen, return_dict=True)
    return out.last_hidden_state.numpy()


def reload(model, folder):
    """The reference's own reading of a folder."""
    found = type(model).from_pretrained(folder, attn_implementation="eager")
    return found.eval()
