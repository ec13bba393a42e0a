"""Outputs of a head for texts of any length, from its artefact: JAX, NumPy and tokenizers are enough.

    python server.py served/head.jax < requests

Each line that is read is a request, ``{"texts": [...]}``, and is answered by a line with ``outputs``
and ``tokens``, one for each text, or with an ``error``; ``{"stats": true}`` asks what was compiled.
Where the artefact was written with names of classes, ``labels`` has the one of the largest output.

The artefact takes any number of texts and tokens, but JAX compiles a program for each pair of them that
it meets. Texts are therefore padded to few lengths and batches, and all of these programs are compiled
before the first line, ``{"ready": ...}``, is written; after it nothing is.
"""

import argparse
import itertools
import json
import pathlib
import sys
import time

import jax
import jax.export
import jax.monitoring
import numpy as np
import tokenizers

BATCHES = (1, 8, 32)
SHORTEST = 16
_COMPILED = "/jax/core/compile/backend_compile_duration"


def lengths_up_to(longest):
    """Lengths that texts are padded to: doubled from one to the next, the last is the longest.

    Example:
        >>> lengths_up_to(100), lengths_up_to(8)
        ([16, 32, 64, 100], [8])
    """
    lengths = itertools.takewhile(lambda n: n < longest, (SHORTEST * 2**k for k in itertools.count()))
    return [*lengths, longest]


class Texts:
    """From texts to rows of token ids, as the description beside an artefact says.

    Args:
        options: Those of its ``preprocess``.
        tokenizer: Its tokenizer.
    """

    def __init__(self, options, tokenizer):
        self.options, self.tokenizer = options, tokenizer
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.prompt = dict(options["prompts"]).get(options["default_prompt"], "")
        self.prefix = [tokenizer.token_to_id(token) for token in options["prefix"]]
        self.suffix = [tokenizer.token_to_id(token) for token in options["suffix"]]

    def rows(self, texts):
        """Token ids of each text, cut to what the model takes, special ones in front and at the end."""
        room = self.options["max_tokens"] - len(self.prefix) - len(self.suffix)
        prompted = [self.prompt + text for text in texts]
        encoded = self.tokenizer.encode_batch_fast(prompted, add_special_tokens=False)
        return [self.prefix + encoding.ids[:room] + self.suffix for encoding in encoded]

    def padded(self, rows, batch, length):
        """Ids ``(batch, length)`` and their mask; rows that are missing repeat the first."""
        ids = np.full((batch, length), self.options["pad_id"], np.int32)
        mask = np.zeros((batch, length), bool)
        for index in range(batch):
            row = rows[index] if index < len(rows) else rows[0]
            left = self.options["padding_side"] == "left"
            part = slice(length - len(row), length) if left else slice(len(row))
            ids[index, part], mask[index, part] = row, True
        return ids, mask


class Server:
    """An artefact with a program for each batch and length.

    Args:
        path: The artefact; its description and tokenizer stand beside it.
        batches: Numbers of texts that are run at once.
    """

    def __init__(self, path, batches=BATCHES):
        about = json.loads(pathlib.Path(f"{path}.json").read_text())
        if about["inputs"][0]["name"] != "ids" or len(about["inputs"][0]["shape"]) != 2:
            raise ValueError(f"path: expected the artefact of one that reads texts, got {path}")
        beside = pathlib.Path(path).parent / about["tokenizer"]
        options = about["inputs"][0]["preprocess"]["options"]
        self.class_names = about["outputs"].get("class_names")
        self.texts = Texts(options, tokenizers.Tokenizer.from_file(str(beside)))
        self.batches, self.lengths = sorted(batches), lengths_up_to(options["max_tokens"])
        exported = jax.export.deserialize(bytearray(pathlib.Path(path).read_bytes()))
        self.programs = {
            (batch, length): jax.jit(exported.call)
            .lower(*(jax.ShapeDtypeStruct((batch, length), dtype) for dtype in (np.int32, bool)))
            .compile()
            for batch, length in itertools.product(self.batches, self.lengths)
        }
        for shape, program in self.programs.items():
            # The first call of a program takes longer than all others: nobody has to wait for it.
            jax.block_until_ready(program(np.zeros(shape, np.int32), np.ones(shape, bool)))

    def __call__(self, texts):
        """Outputs ``(len(texts), k)`` and the number of tokens of each text."""
        rows, outputs = self.texts.rows(texts), []
        for start in range(0, len(rows), self.batches[-1]):
            part = rows[start : start + self.batches[-1]]
            batch = next(size for size in self.batches if size >= len(part))
            length = next(size for size in self.lengths if size >= max(map(len, part)))
            found = self.programs[batch, length](*self.texts.padded(part, batch, length))
            outputs += np.asarray(found)[: len(part)].tolist()
        return outputs, [len(row) for row in rows]


def answer(server, line, compiled):
    """What is written for a line that was read."""
    try:
        request = json.loads(line)
    except ValueError as error:
        return {"error": f"expected a line of JSON, got: {error}"}
    if request == {"stats": True}:
        return {"compilations": len(compiled), "programs": list(server.programs)}
    texts = request.get("texts") if isinstance(request, dict) else None
    if not (isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts)):
        return {"error": 'expected {"texts": [...]} with at least one text'}
    outputs, tokens = server(texts)
    found = {"outputs": outputs, "tokens": tokens}
    if server.class_names is not None:
        found["labels"] = [server.class_names[int(np.argmax(row))] for row in outputs]
    return found


def main():
    """Compile all programs, then answer line by line."""
    parser = argparse.ArgumentParser(description="Answer requests from an artefact.")
    parser.add_argument("artefact")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    options = parser.parse_args()
    compiled = []

    def listen(event, seconds, **_):
        if event == _COMPILED:
            compiled.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    started = time.perf_counter()
    server = Server(options.artefact, options.batches)
    ready = {"seconds": round(time.perf_counter() - started, 2), "programs": len(server.programs)}
    print(json.dumps({"ready": ready}), flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(server, line, compiled)), flush=True)


if __name__ == "__main__":
    main()
