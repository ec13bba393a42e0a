"""Poolers compared on the token states of a PyTorch model, which poolax never sees.

    python experiments/examples/torch_states.py
    python experiments/examples/torch_states.py --model distilbert-base-uncased   # by transformers

The model runs once over paragraphs of Python's documentation; what is kept is an array of states and a
mask, true at real tokens. By default it is a small encoder with random weights that reads characters,
so that nothing is downloaded: scores are those of random features.
"""

if __name__ == "__main__":
    from poolax.startup import take_signals

    take_signals("torch_states")

import dataclasses
import sys
from typing import ClassVar

import numpy as np
import tyro

from poolax import data, reporting, training
from poolax.cli import COMPLETE, OptionalText, check_count, run_program, show

WIDTH = 32


def states_of_random(texts: list[str], length: int):
    """States ``(N, n, d)`` and mask ``(N, n)`` of an encoder of characters with random weights."""
    import torch

    torch.manual_seed(0)
    embed = torch.nn.Embedding(128, WIDTH)
    layer = torch.nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, batch_first=True)
    encoder = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    ids = torch.zeros(len(texts), length, dtype=torch.long)
    mask = torch.zeros(len(texts), length, dtype=torch.bool)
    for row, text in enumerate(texts):
        codes = [min(ord(letter), 127) for letter in text[:length]]
        ids[row, : len(codes)], mask[row, : len(codes)] = torch.tensor(codes), True
    with torch.no_grad():
        # PyTorch's mask is true at padding.
        states = encoder(embed(ids), src_key_padding_mask=~mask)
    return states.numpy(), mask.numpy()


def states_of_pretrained(name: str, texts: list[str], length: int, batch_size: int = 32):
    """The same of a model of the library transformers."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(name), AutoModel.from_pretrained(name).eval()
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    batch = tokenizer(
        texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
    )
    parts = []
    with torch.no_grad():
        for start in range(0, len(texts), batch_size):
            some = {key: value[start : start + batch_size] for key, value in batch.items()}
            parts.append(model(**some).last_hidden_state.float())  # NumPy has no bfloat16
    return torch.cat(parts).numpy(), batch["attention_mask"].bool().numpy()


@dataclasses.dataclass(frozen=True)
class TorchStates:
    """Compare poolers on token states of a PyTorch model.

    Attributes:
        model: Folder or hub id for transformers; by default an encoder with random weights.
        poolers: What is compared.
        num_examples: Most paragraphs of each split.
        length: Tokens that texts are cut to.
        out: Folder for records and heads.
        debug: Show where an error comes from.
    """

    resumable: ClassVar[bool] = True

    model: OptionalText = None
    poolers: tuple[str, ...] = ("avg", "max", "last", "wavg")
    num_examples: int = 400
    length: int = 64
    out: str = "torch-states"
    debug: bool = False

    def run(self) -> int:
        """Run the command and give its exit code."""
        check_count("num_examples", self.num_examples)
        check_count("length", self.length)
        dataset = data.language.topics().subset(self.num_examples, seed=0)
        texts = np.asarray(dataset.inputs).tolist()
        if self.model is None:
            states, mask = states_of_random(texts, self.length)
        else:
            states, mask = states_of_pretrained(self.model, texts, self.length)
        records = training.sweep_states(
            states,
            mask,
            dataset.targets,
            training.Classification(dataset.num_classes),
            splits=dataset.splits,
            poolers=self.poolers,
            seeds=1,
            solver="converged",
            name=self.model or "random encoder",
            out=self.out,
        )
        show(reporting.score_tables(records), [], as_json=False)
        return COMPLETE


if __name__ == "__main__":
    sys.exit(run_program("torch_states", lambda: tyro.cli(TorchStates)))
