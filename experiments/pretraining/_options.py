"""The command line of pretraining."""

import dataclasses
from typing import Annotated, Literal

import tyro

from poolax.cli import (
    FileFlags,
    OptionalCount,
    OptionalFlag,
    OptionalNumber,
    OptionalPath,
    OptionalText,
    check_choice,
    check_count,
)
from pretraining._presets import PRESETS, Preset

# As the images of the presets' own data.
_SIDE = 32
_OF_PRESET = ("width", "num_layers", "num_heads", "block", "batch_size", "steps", "evaluate_every")
_OF_MODEL = ("width", "num_layers", "num_heads", "attention", "vocab_size")
_OF_OPTIMISATION = (
    *("optimizer", "learning_rate", "muon_learning_rate", "warmup_steps", "weight_decay"),
    *("spectral_cap", "spectral_method", "dtype", "accumulation", "remat", "scan_layers"),
)


@dataclasses.dataclass(frozen=True)
class Files(FileFlags):
    """How a file or folder of one's own is read.

    Attributes:
        size: Pixels a side that images are brought to; with --init those of the model.
    """

    size: int = _SIDE


@dataclasses.dataclass(frozen=True)
class Options:
    """Pretrain a backbone from nothing, without labels, or go on from where that stopped.

    Attributes:
        preset: Recipe that all that is not said otherwise comes from: one of those below.
        data: What is read in place of the preset's data: data sets of "poolax data list", or files and
            folders of your own: texts (.txt, tables, folders), token files (.bin, or a folder of them),
            images (a folder, by class or not), series (.npy, .npz, tables, or a folder of such).
        data_dir: Folder with the data sets' files, each in a folder of its name; by default what
            "poolax data prepare" has prepared.
        out: Folder for everything that is written; the same command goes on from what is there.
        resume: Go on from what is in --out; with --no-resume it has to be new.
        tokenizer: A tokenizer that is there: a file, folder or hub id; by default one is trained.
        vocab_size: Tokens of a tokenizer that is trained.
        token_dtype: "uint16" or "uint32", of token files that no record stands beside; by default
            uint16, which nanoGPT writes.
        near_copies: Texts that share this much (Jaccard index of runs of three words) with one that is
            held out are not trained on; 0 keeps all.
        init: Checkpoint, hub id or --out of another run: a backbone to go on from in place of random
            weights, with its sizes and tokenizer.
        attention: Of a GPT-2: "dot" or "l2".
        width: Width of the tokens.
        num_layers: Blocks.
        num_heads: Attention heads.
        block: Tokens of a row of text, or steps of a series.
        batch_size: Rows of a step, of all devices and micro-batches.
        steps: Steps of the optimizer.
        evaluate_every: Steps between two evaluations.
        checkpoint_every: Steps between two checkpoints; by default one is written a minute.
        optimizer: "adamw" or "muon", which is for matrices and leaves the rest to AdamW.
        learning_rate: Peak rate of AdamW.
        muon_learning_rate: Peak rate of Muon.
        warmup_steps: Steps over which rates rise.
        weight_decay: Of kernels and tables of embeddings.
        spectral_cap: Largest spectral norm of a kernel.
        spectral_method: How it is kept: "cap" cuts singular values, "soft" shrinks large ones by matrix
            products alone, "hammer" lowers the largest, "normalize" scales all.
        dtype: What blocks compute in.
        accumulation: Micro-batches into which each device cuts its rows.
        remat: Compute blocks and logits again in the backward pass, which takes less memory.
        scan_layers: One program for all blocks, which compiles faster.
        seed: Sets initialisation, order of batches and what is hidden.
        lipschitz: Inputs at which Jacobian norms of pooled outputs and their bounds are measured at
            every evaluation; 0 for none.
        worth: Measure what the model is worth at the end: a linear head on its averaged states, beside
            random weights and raw inputs, and what models that learn little come to.
        beside: Folders of other runs, drawn in the same figures.
        devices: Simulate this many CPU devices; by default all local devices are used.
        distributed: One of several processes, on one host or more, that run the same command: "auto"
            where SLURM, Open MPI, Kubernetes or a TPU pod tells them of each other, else the address
            of the first (HOST:PORT), how many there are, and which of them, from 0, this one is.
        quick: The smallest sizes, on data that comes with libraries: to see it run.
        files: How your own files are read.
        as_json: Print records instead of the table.
        debug: Show where an error comes from.
    """

    preset: str = "gpt2-64"
    data: tuple[str, ...] = ()
    data_dir: OptionalPath = None
    out: str = "poolax-pretrain"
    resume: bool = True
    tokenizer: OptionalPath = None
    vocab_size: OptionalCount = None
    token_dtype: Literal["uint16", "uint32"] | None = None
    near_copies: float = 0.3
    init: OptionalPath = None
    attention: Literal["dot", "l2"] | None = None
    width: OptionalCount = None
    num_layers: OptionalCount = None
    num_heads: OptionalCount = None
    block: OptionalCount = None
    batch_size: OptionalCount = None
    steps: OptionalCount = None
    evaluate_every: OptionalCount = None
    checkpoint_every: OptionalCount = None
    optimizer: OptionalText = None
    learning_rate: OptionalNumber = None
    muon_learning_rate: OptionalNumber = None
    warmup_steps: OptionalCount = None
    weight_decay: OptionalNumber = None
    spectral_cap: OptionalNumber = None
    spectral_method: OptionalText = None
    dtype: OptionalText = None
    accumulation: OptionalCount = None
    remat: OptionalFlag = None
    scan_layers: OptionalFlag = None
    seed: int = 0
    lipschitz: int = 0
    worth: bool = False
    beside: tuple[str, ...] = ()
    devices: OptionalCount = None
    distributed: tuple[str, ...] = ()
    quick: bool = False
    files: tyro.conf.OmitArgPrefixes[Files] = dataclasses.field(default_factory=Files)
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    debug: bool = False

    def chosen(self) -> Preset:
        """The preset with all that is said otherwise.

        Raises:
            ValueError: for an unknown preset, or numbers out of range.
        """
        check_choice("preset", self.preset, PRESETS)
        for field in ("seed", "lipschitz"):
            check_count(field, getattr(self, field), at_least=0)
        preset = PRESETS[self.preset]()
        if self.attention is not None and preset.family != "gpt2":
            raise ValueError(f"attention: expected none for {self.preset}, got {self.attention!r}")
        if self.init is not None:
            self._check_sizes_of_model()
        preset = quickened(preset) if self.quick else preset
        given = self._given(_OF_OPTIMISATION)
        optimisation = dataclasses.replace(preset.optimisation, **given)
        given = self._given((*_OF_PRESET, "vocab_size", "attention"))
        for field in (*_OF_PRESET, "vocab_size"):
            if field in given:
                check_count(field, given[field])
        if self.data:
            given["data"] = self.data
        return dataclasses.replace(preset, **given, optimisation=optimisation)

    def _check_sizes_of_model(self):
        for field in _OF_MODEL:
            if getattr(self, field) is not None:
                raise ValueError(
                    f"{field}: expected none beside --init, whose model has its own, got "
                    f"{getattr(self, field)!r}"
                )

    def _given(self, fields):
        found = {field: getattr(self, field) for field in fields}
        return {field: value for field, value in found.items() if value is not None}


def quickened(preset: Preset) -> Preset:
    """A preset at the smallest sizes, on data that comes with libraries."""
    return dataclasses.replace(
        preset,
        data=preset.quick,
        probe=(),
        width=16,
        num_layers=2,
        num_heads=2,
        block=min(preset.block, 64 if preset.family == "moment" else 16),
        patch=preset.patch if preset.family == "moment" else 2,
        batch_size=8,
        steps=6,
        evaluate_every=3,
        vocab_size=300,
        optimisation=dataclasses.replace(preset.optimisation, accumulation=1, warmup_steps=1),
    )
