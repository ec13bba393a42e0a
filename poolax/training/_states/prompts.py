"""A prompt in front of the texts that a backbone reads."""

import dataclasses
from typing import Any

from poolax._inputs import are_integers
from poolax.backbones import Backbone, TextPreprocess


def with_prompt(backbone: Backbone, inputs: Any, prompt: str) -> Backbone:
    """The backbone that reads a prompt in front of every text.

    Args:
        backbone: A backbone of texts.
        inputs: What it is to read.
        prompt: The prompt, ``""`` for none.

    Returns:
        The backbone with another ``preprocess``.

    Raises:
        ValueError: for a backbone that tokenises no texts, or token ids.
    """
    prepare = backbone.preprocess
    if not isinstance(prepare, TextPreprocess):
        kind = type(backbone).__name__
        raise ValueError(f"prompt: expected None for {kind} without texts, got {prompt!r}")
    if are_integers(inputs):
        raise ValueError(f"prompt: expected None for token ids, got {prompt!r}")
    return dataclasses.replace(backbone, preprocess=prepare.with_prompt(prompt))
