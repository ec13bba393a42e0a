"""Poolers on image tasks with small Vision Transformers that are pretrained first, without labels.

    python experiments/vision.py --data-dir DIR

DIR holds cifar10/, see "poolax data list"; the digits come with scikit-learn. Records, heads, the table
(Markdown, CSV, LaTeX) and the figure stand in --out; the same command goes on from what is there.
"""

if __name__ == "__main__":
    from poolax.startup import take_signals

    take_signals("vision")

import dataclasses
import sys

import comparison
import numpy as np

from poolax import quickstart, training
from poolax.backbones import ImagePreprocess
from poolax.data.vision import inpainting


@dataclasses.dataclass(frozen=True)
class Options(comparison.PretrainingOptions):
    """Compare poolers on image tasks with small Vision Transformers that are pretrained first.

    Attributes:
        output_grid: Cells a side of the targets of inpainting; by default one for each pixel.
    """

    out: str = "poolax-vision"
    learning_rates: tuple[float, ...] = (1e-3, 1e-2)
    output_grid: int | None = None


@dataclasses.dataclass(frozen=True)
class Images:
    """Images and the Vision Transformer that is pretrained on their training split.

    Attributes:
        name: Name of the data set.
        patch_size: Pixels a side of a patch.
        white: Value of a white pixel.
    """

    name: str
    patch_size: int
    white: int

    def dataset(self, context):
        """The images with their labels."""
        return context.load(self.name)

    def inpainted(self, context):
        """The images without their centre, which is to be predicted."""
        data = self.dataset(context)
        grid = context.options.output_grid
        return inpainting(data, output_grid=data.inputs.shape[1] if grid is None else grid)

    def backbone(self, context):
        """The Vision Transformer and its name."""
        data, options = self.dataset(context), context.options
        schedule = quickstart.pretraining_schedule(
            options.pretrain_epochs,
            seed=options.pretrain_seed,
            out=context.out / "pretraining" / self.name,
            progress=context.progress,
        )
        vit = quickstart.pretrain_vit(
            np.asarray(data.inputs[data.splits["train"]]),
            schedule,
            patch_size=self.patch_size,
            preprocess=ImagePreprocess(scale=1 / self.white),
        )
        return vit, f"ViT of {self.name} ({options.pretrain_epochs} epochs)"


def classification(images):
    """The classes of images."""
    return comparison.Case(
        dataset=images.dataset,
        task=lambda data: training.Classification(data.num_classes),
        backbone=images.backbone,
    )


DIGITS = Images("digits", patch_size=2, white=16)
CIFAR10 = Images("cifar10", patch_size=4, white=255)
STUDY = comparison.Study(
    name="vision",
    title="Vision: poolers on small Vision Transformers, pretrained by filling in patches",
    options=Options(),
    cases={
        "digits": classification(DIGITS),
        "cifar10": classification(CIFAR10),
        "cifar10_inpainting": comparison.Case(
            dataset=CIFAR10.inpainted,
            task=lambda data: training.Inpainting(data.targets.shape[1]),
            backbone=CIFAR10.backbone,
        ),
    },
)

if __name__ == "__main__":
    sys.exit(comparison.main(STUDY))
