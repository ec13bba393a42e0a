r"""Pretrains small and large backbones without labels: GPT-2, BERT, ViT, LipsFormer, Swin, MOMENT.

    python experiments/pretrain.py --preset gpt2-l2-64 --data-dir DIR --out run
    python experiments/pretrain.py --preset gpt2-64 --data tales.txt            # text of your own
    python experiments/pretrain.py --preset gpt2-paper --data openwebtext/      # token files, on GPUs
    python experiments/pretrain.py --preset vit --quick                         # to see it run

In --out stand records (records.jsonl), curves (curves.png), checkpoints, the model ("backbone", which
"backbones.load" reads, and where the family has one "huggingface", in that layout). The same command
goes on from what is there, to the same bits; SIGTERM and Ctrl-C save first.

Norms of pooled outputs and their bounds over training, of dot product and L2 attention with a cap on
spectral norms and without; the last of the four draws all of them, in capped-l2/lipschitz.png:

    python experiments/pretrain.py --preset gpt2-64 --lipschitz 4 --data-dir DIR --out dot
    python experiments/pretrain.py --preset gpt2-l2-64 --lipschitz 4 --data-dir DIR --out l2
    python experiments/pretrain.py --preset gpt2-64 --lipschitz 4 --spectral-cap 1 --data-dir DIR \
        --out capped-dot
    python experiments/pretrain.py --preset gpt2-l2-64 --lipschitz 4 --spectral-cap 1 --data-dir DIR \
        --beside dot l2 capped-dot --out capped-l2

Losses of three widths by their number of parameters, of the records in results/:

    python experiments/summary.py --figures figures

Duration (estimate, two CPU cores): two to ten minutes for a small preset; --quick a minute.
"""

if __name__ == "__main__":
    from poolax.startup import take_signals

    take_signals("pretrain")

import dataclasses
import functools
import sys
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import numpy as np
import pretraining
import rich.console
import tyro
from etils import epath

from poolax import backbones, measure
from poolax.cli import COMPLETE, progress_bars, run_program, show, simulate_devices, tell
from poolax.records import Records
from poolax.reporting import Cell, Table, plot_pretraining, plot_training_lipschitz
from poolax.training import Progress
from poolax.training.pretraining import Plan, Pretrained, pretrain


@dataclasses.dataclass(frozen=True)
class _Command:
    options: pretraining.Options

    resumable: ClassVar[bool] = True

    @property
    def debug(self) -> bool:
        return self.options.debug

    def run(self) -> int:
        options = self.options
        preset = options.chosen()
        if options.devices is not None:
            simulate_devices(options.devices)
        pretraining.join(options.distributed)
        out, console = epath.Path(options.out), rich.console.Console(file=sys.stderr)
        if not options.resume and pretraining.is_so(out.exists() and any(out.iterdir())):
            raise ValueError(f"out: expected a new folder with --no-resume, got {out}")
        beside, init = runs_of(options.beside), None
        if options.init is not None:
            init = backbones.load(pretraining.path_of_model(options.init))
            init = pretraining.with_mask_token(init)
        with progress_bars(console) as progress:
            prepared = pretraining.prepare(options, preset, out, progress, init)
            probes = pretraining.probes_of(options, preset, prepared) if options.worth else {}
            found = _trained(options, preset, prepared, init, out, progress)
            _write(beside, found, out, console)
            records = list(found.records)
            shown = [curve_table(options.preset, records)]
            if options.worth:
                worth = pretraining.worth_of(
                    options, preset, prepared, probes, found.backbone, records, progress
                )
                Records([worth]).write_as(out / "pretrain.jsonl")
                records, shown = [*records, worth], [*shown, pretraining.summary_table([worth])]
        if jax.process_index() == 0:
            show(shown, records, as_json=options.as_json)
        tell(console, f"Complete: {out}")
        return COMPLETE


def _trained(
    options: pretraining.Options,
    preset: pretraining.Preset,
    prepared: pretraining.Prepared,
    init: backbones.Backbone | None,
    out: epath.Path,
    progress: Progress,
) -> Pretrained:
    plan = Plan(
        preset.steps,
        preset.optimisation,
        seed=options.seed,
        evaluate_every=preset.evaluate_every,
        checkpoint_every=options.checkpoint_every,
    )
    observers = []
    if options.lipschitz:
        observers = [measure.along_training(prepared.inputs(options.lipschitz))]
    return pretrain(
        prepared.objective,
        prepared.batches,
        plan,
        evaluation=prepared.evaluation,
        out=out,
        init=init,
        preprocess=prepared.preprocess,
        observers=observers,
        progress=progress,
    )


def runs_of(folders: Sequence[str]) -> dict[str, list[dict]]:
    """Records of pretraining in folders of other runs, by what tells the folders apart.

    Args:
        folders: The folders.

    Raises:
        ValueError: for a folder without such records.
    """
    paths = [epath.Path(folder) for folder in folders]
    names = [path.name for path in paths]
    runs = {}
    for path, name in zip(paths, names, strict=True):
        found = list(Records.read(path / "records.jsonl").where(kind="pretraining"))
        if not found:
            raise ValueError(f"beside: expected the folder of a run, with records.jsonl, got {path}")
        runs[name if names.count(name) == 1 else str(path)] = found
    return runs


def _write(beside: Mapping[str, list[dict]], found: Pretrained, out: epath.Path, console) -> None:
    """The model and the figures, from whatever run they come."""
    if not pretraining.is_so(backbones.is_saved_backbone(out / "backbone")):
        backbones.save(found.backbone, out / "backbone")
    if not pretraining.is_so((out / "huggingface").exists()):
        try:
            backbones.save(with_segment(found.backbone), out / "huggingface", format="huggingface")
        except ValueError as error:
            tell(console, f"Not in Hugging Face's layout: {error}")
    if jax.process_index() > 0:
        return
    own = out.name if out.name not in beside else str(out)
    draw({**beside, own: list(found.records)}, out)


def with_segment(backbone: backbones.Backbone) -> backbones.Backbone:
    """A BERT without segments as one of a segment that changes nothing, for its other layout has one.

    Args:
        backbone: Any; others stay as they are.
    """
    config: Any = backbone.config
    if not isinstance(backbone, backbones.Bert) or config.num_token_types:
        return backbone
    tables = backbone.params["embeddings"]
    tables = {**tables, "token_type": np.zeros_like(tables["token"][:1])}
    params = {**backbone.params, "embeddings": tables}
    return backbone.replace(config=dataclasses.replace(config, num_token_types=1), params=params)


def draw(runs: Mapping[str, Sequence[dict]], out: epath.Path) -> None:
    """Curves of runs, and where they have them norms and bounds, a colour for each run.

    Args:
        runs: Records of kind ``"pretraining"`` of each run by name.
        out: Folder to write to.
    """
    plot_pretraining(runs, out / "curves.png")
    observed = {
        name: rows
        for name, rows in runs.items()
        if any("lipschitz" in row.get("observed", {}) for row in rows)
    }
    if observed:
        plot_training_lipschitz(observed, out / "lipschitz.png")


def curve_table(name: str, records: Sequence[dict]) -> Table:
    """Records of evaluations as a table.

    Args:
        name: Name of the preset.
        records: Records of kind ``"pretraining"``.
    """
    fields = {
        "step": "{}",
        "tokens": "{}",
        "loss": "{:.4f}",
        "evaluation_loss": "{:.4f}",
        "tokens_per_second": "{:.0f}",
        "matrix_share": "{:.2f}",
    }
    rows = [row for row in records if row.get("evaluation_loss") is not None] or records[-1:]
    cells = [
        [Cell("" if row.get(name) is None else form.format(row[name])) for name, form in fields.items()]
        for row in rows
    ]
    columns = [name.replace("_", " ") for name in fields]
    return Table(f"Pretraining: {name}", columns, cells, [], rows)


def presets_help() -> str:
    """What ``--help`` says of the presets, with the ranges of losses of recorded runs."""
    records = pretraining.recorded()
    lines = [f"{name}: {pretraining.described(name, records)}" for name in pretraining.PRESETS]
    return "Presets:\n\n" + "\n\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and pretrain.

    Args:
        arguments: The command line; ``None`` for the process's own.

    Returns:
        The process's exit code: 0 complete, 1 failure, 2 usage, 75 interrupted and resumable.
    """
    description = f"{(pretraining.Options.__doc__ or '').splitlines()[0]}\n\n{presets_help()}"
    read = functools.partial(
        tyro.cli, pretraining.Options, prog="pretrain.py", args=arguments, description=description
    )
    return run_program("pretrain", lambda: _Command(read()))


if __name__ == "__main__":
    sys.exit(main())
