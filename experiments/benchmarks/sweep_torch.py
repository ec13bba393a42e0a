"""The heads of a sweep in PyTorch, as the paper's authors train them and on kept token states."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.banking77 import LEARNING_RATE, POOLERS, TOKENS, Plan, model_directory, tokenized
from benchmarks.timing import peak_mebibytes


def reference(plan: Plan) -> dict[str, Any]:
    """Seconds of the same heads in PyTorch: with the backbone in every step, and on kept states."""
    import torch
    from transformers import BertModel

    torch.set_num_threads(plan.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_default_device(device)
    _, ids, mask, targets, splits, num_classes = tokenized(plan)
    model = BertModel.from_pretrained(model_directory(), add_pooling_layer=False)
    model = model.eval().to(device)
    ids, mask, targets = (torch.tensor(array) for array in (ids.astype(np.int64), mask, targets))
    targets = targets.long()

    def forward(rows):
        with torch.inference_mode():
            return model(input_ids=ids[rows], attention_mask=mask[rows]).last_hidden_state

    def wait():
        if device == "cuda":
            torch.cuda.synchronize()

    wait()
    start = time.perf_counter()
    # Clones leave inference mode, which autograd refuses.
    states = torch.cat([forward(rows) for rows in torch.arange(len(ids)).split(256)]).clone()
    wait()
    features = time.perf_counter() - start
    width = states.shape[-1]
    train, validation, test = (torch.tensor(splits[name]) for name in ("train", "validation", "test"))
    steps = plan.steps(len(train))
    found: dict[str, Any] = {key: {} for key in ("online", "cached", "steps", "accuracy", "parameters")}
    for name in POOLERS:
        torch.manual_seed(0)
        head = _torch_head(name, width, num_classes)
        optimizer = torch.optim.Adam(head.parameters(), lr=LEARNING_RATE)
        found["parameters"][name] = sum(parameter.numel() for parameter in head.parameters())

        def step(rows, z, head=head, optimizer=optimizer):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(head(z, mask[rows]), targets[rows])
            loss.backward()
            optimizer.step()

        batches = torch.randperm(len(train)).split(plan.batch_size)
        first = [train[rows] for rows in batches[: plan.timed_steps]]
        online = _time(lambda rows, step=step: step(rows, forward(rows).clone()), first, wait)
        found["online"][name] = online * steps * plan.seeds

        def evaluate(split, head=head):
            loss, correct = 0.0, 0
            with torch.inference_mode():
                for rows in split.split(256):
                    logits = head(states[rows], mask[rows])
                    loss += torch.nn.functional.cross_entropy(logits, targets[rows], reduction="sum")
                    correct += (logits.argmax(-1) == targets[rows]).sum()
            return float(loss) / len(split), float(correct) / len(split)

        start, in_steps = time.perf_counter(), 0.0
        for _ in range(plan.epochs):
            epoch_start = time.perf_counter()
            for rows in torch.randperm(len(train)).split(plan.batch_size):
                step(train[rows], states[train[rows]])
            wait()
            in_steps += time.perf_counter() - epoch_start
            evaluate(validation)
        _, found["accuracy"][name] = evaluate(test)
        found["cached"][name] = (time.perf_counter() - start) * plan.seeds
        found["steps"][name] = in_steps * plan.seeds
    return found | {
        "features": features,
        "peak_mebibytes": peak_mebibytes(),
        "torch": torch.__version__,
        "device": device,
    }


def _time(step: Callable, batches, wait: Callable) -> float:
    """Median seconds of a step."""
    seconds = []
    for rows in batches:
        start = time.perf_counter()
        step(rows)
        wait()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def _torch_head(name, width, num_classes):
    """The same head as ours."""
    import torch
    from torch import nn

    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.output = nn.Linear(width, num_classes)
            if name == "wavg":
                self.weights = nn.Parameter(torch.zeros(TOKENS))
            if name == "attn":
                self.latents = nn.Parameter(torch.randn(64, width))
                self.attention = nn.MultiheadAttention(width, 4, bias=False, batch_first=True)
                self.mlp = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

        def pool(self, z, mask):
            if name == "last":
                return z[:, 0]
            if name == "max":
                return z.masked_fill(~mask[..., None], -torch.inf).amax(1)
            if name == "wavg":
                weights = self.weights.masked_fill(~mask, -torch.inf).softmax(-1)
                return (weights[..., None] * z).sum(1)
            if name == "attn":
                latents = self.latents.expand(len(z), -1, -1)
                z = z + self.attention(z, latents, latents, need_weights=False)[0]
                z = z + self.mlp(z)
            total = (z * mask[..., None]).sum(1)
            return total if name == "sum" else total / mask.sum(1, keepdim=True)

        def forward(self, z, mask):
            return self.output(self.pool(z, mask))

    return Head()
