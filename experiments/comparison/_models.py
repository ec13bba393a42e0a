"""Backbones that are given by path: what they are called, and how they were pretrained."""

import functools
import pathlib

import minilm

from poolax import backbones
from poolax.backbones import Backbone
from poolax.pooling import to_config

#: What stands for the package of weights in place of a path.
MINILM = minilm.PACKAGE
# Names that own checkpoints have in the folder of their run.
_WITHIN = ("backbone", "huggingface")
_PATCHES = "filling in patches"
#: How checkpoints were pretrained that do not say so themselves, by how their names begin.
_KNOWN = {
    "all-minilm": "sentence pairs, by the mean of the tokens",
    "smollm2": "next tokens, then instructions; the last token has read all",
    "dinov2": "self-distillation of CLS and of patches, then tuned for saliency",
    "dinov3": "self-distillation of CLS and of patches",
}
_FAMILIES = {
    "GPT2": "next tokens; the last token has read all",
    "Decoder": "next tokens; the last token has read all",
    "Moment": f"{_PATCHES}; no summary is read by a loss",
    "LipsFormer": f"{_PATCHES}; no summary is read by a loss",
    "Swin": f"{_PATCHES}; no summary is read by a loss",
}
#: Of records that were made before they said it themselves.
FORMER = {
    "all-MiniLM-L6-v2": _KNOWN["all-minilm"],
    "ViT of cifar10 (100 epochs)": f"{_PATCHES}; CLS is read by no loss",
    "ViT of digits (100 epochs)": f"{_PATCHES}; CLS is read by no loss",
    "patch transformer (100 epochs)": f"{_PATCHES}; no summary is read by a loss",
}
NOT_SAID = "not said"


def name_of(path: str) -> str:
    """What a backbone is called: its folder, or that of the run that left it there.

    Example:
        >>> [name_of(path) for path in ("runs/gpt2-64-0/backbone", "org/bert-base", "minilm")]
        ['gpt2-64-0', 'bert-base', 'all-MiniLM-L6-v2']
    """
    if path == MINILM:
        return minilm.NAME
    parts = [part for part in pathlib.PurePath(path).parts if part != "/"]
    own = len(parts) > 1 and parts[-1] in _WITHIN
    return parts[-2] if own else parts[-1] if parts else path


@functools.cache
def loaded(path: str) -> Backbone:
    """A backbone by its directory, hub id, or ``"minilm"`` for the package of weights."""
    return backbones.load(minilm.directory() if path == MINILM else path)


def pretrained_of(backbone: Backbone, name: str) -> str:
    """How a backbone was pretrained, in words, as far as that is known: which summary has been read.

    Args:
        backbone: The backbone.
        name: What records call it.
    """
    for known, words in _KNOWN.items():
        if name.lower().startswith(known):
            return words
    if backbone.pooler is not None:
        return f"sentences, by its own pooling: {to_config(backbone.pooler)['name']}"
    family = type(backbone).__name__
    if family == "ViT" and getattr(backbone.config, "use_mask_token", False):
        return f"{_PATCHES}; CLS is read by no loss"
    return _FAMILIES.get(family, NOT_SAID)
