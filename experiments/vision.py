"""Poolers on image tasks with small Vision Transformers that are pretrained first, without labels.

    python experiments/vision.py --data-dir DIR
    python experiments/vision.py --quick

DIR holds cifar10/, see "poolax data list"; the digits come with scikit-learn. Records, heads, the table
(Markdown, CSV, LaTeX) and the figure stand in --out; the same command goes on from what is there.
Other data sets of that list (filled in with NAME_inpainting) and your own images are named in place of
these, and a model of yours in place of the small ones:

    python experiments/vision.py --datasets photos/ --size 98 --backbone dinov2-small/

The paper reports ViT-small, ViT-base and LipsFormer on ten data sets and tasks: ViT-small on CIFAR-10
from 84.96 % (max) to 90.88 % (W-Avg), CLS best of the fixed poolers; average best in filling in.

Duration (estimate, two CPU cores): two hours, half an hour of it for pretraining; some minutes
for the digits; --quick a minute.
"""

if __name__ == "__main__":
    from poolax.startup import take_signals

    take_signals("vision")

import dataclasses
import math
import sys

import comparison
import numpy as np

from poolax import quickstart, training
from poolax.backbones import ImageGeometry, ImagePreprocess, LipsFormer, Swin
from poolax.cli import check_count, is_own
from poolax.data import entry, names
from poolax.data.vision import inpainting

GRID = 8


@dataclasses.dataclass(frozen=True)
class Options(comparison.PretrainingOptions):
    """Compare poolers on image tasks with small Vision Transformers that are pretrained first.

    Attributes:
        output_grid: Cells a side of the targets of inpainting; by default one for each pixel.
        image_size: Pixels a side that images are brought to for a backbone that is given and was made
            for other sizes than theirs.
    """

    out: str = "poolax-vision"
    image_size: int = 98
    learning_rates: tuple[float, ...] = (1e-3, 1e-2)
    output_grid: int | None = None

    def check(self) -> None:
        """Refuse unknown names and numbers out of range, before anything is read or trained."""
        super().check()
        check_count("image_size", self.image_size)


@dataclasses.dataclass(frozen=True)
class Images:
    """Images and the Vision Transformer that is pretrained on their training split.

    Attributes:
        name: Name of the data set, or path of one's own.
        patch_size: Pixels a side of a patch; ``None`` for about eight patches a side.
        white: Value of a white pixel; ``None`` for the largest there is.
    """

    name: str
    patch_size: int | None = None
    white: int | None = None

    def dataset(self, context):
        """The images with their labels."""
        return context.read(self.name)

    def inpainted(self, context):
        """The images without their centre, which is to be predicted."""
        data = self.dataset(context)
        grid = context.options.output_grid
        return inpainting(data, output_grid=data.inputs.shape[1] if grid is None else grid)

    def fitted(self, context, data, backbone):
        """Images that the backbone takes: one's own as they are, others in the size it was made for."""
        side = getattr(context.options, "image_size", Options.image_size)
        made_for = backbone.config.image_size
        is_fit = data.inputs.shape[1:] == (made_for, made_for, backbone.config.num_channels)
        if is_fit or (self.name not in names() and is_own(self.name)):
            return data, backbone
        has_windows = isinstance(backbone, LipsFormer | Swin)  # of which no other size makes whole ones
        return resized(data, backbone, made_for if has_windows else min(side, made_for)), backbone

    def backbone(self, context):
        """The Vision Transformer and its name."""
        data, options = self.dataset(context), context.options
        schedule = quickstart.pretraining_schedule(
            options.pretrain_epochs,
            seed=options.pretrain_seed,
            out=context.out / "pretraining" / data.name,
            progress=context.progress,
        )
        images = np.asarray(data.inputs[data.splits["train"]])
        vit = quickstart.pretrain_vit(
            images,
            schedule,
            patch_size=self.patch_size or patch_size(images.shape[1]),
            preprocess=ImagePreprocess(scale=1 / (self.white or white(images))),
        )
        return vit, f"ViT of {data.name} ({options.pretrain_epochs} epochs)"


def resized(data, backbone, side):
    """The images of the splits alone, brought to the channels of the backbone, and to one size."""
    used = np.unique(np.concatenate([np.asarray(part) for part in data.splits.values()]))
    images, channels = [in_bytes(data, index) for index in used], backbone.config.num_channels
    images = ImageGeometry(side)(images, size=side, channels=channels)
    return dataclasses.replace(
        data,
        inputs=images,
        targets=np.asarray(data.targets)[used],
        splits={name: np.searchsorted(used, part) for name, part in data.splits.items()},
        notes=(*data.notes, f"images brought to {side} × {side} pixels"),
    )


def in_bytes(data, index):
    """An image in whole numbers to 255, grey ones without an axis of channels."""
    image = np.asarray(data.inputs[index])
    if image.dtype != np.uint8:
        most = DIGITS.white if data.name == "digits" else 255
        image = np.round(image * (255 / most)).clip(0, 255).astype(np.uint8)
    return image[..., 0] if image.shape[-1] == 1 else image


def patch_size(side):
    """The patch of which about eight fit a side.

    Example:
        >>> [patch_size(side) for side in (8, 28, 32, 224)]
        [1, 4, 4, 28]
    """
    sizes = [size for size in range(1, side + 1) if side % size == 0]
    return min(sizes, key=lambda size: abs(math.log(side / size / GRID)))


def white(images):
    """The value of a white pixel: 255 of bytes, else the largest there is."""
    return 255 if images.dtype == np.uint8 else float(np.abs(images).max()) or 1.0


def classification(images):
    """The classes of images."""
    return comparison.Case(
        dataset=images.dataset,
        task=lambda data: training.Classification(data.num_classes),
        backbone=images.backbone,
        fitted=images.fitted,
    )


def inpainting_task(data):
    """As many pixels as are hidden."""
    return training.Inpainting(data.targets.shape[1])


def filled_in(images):
    """What stands in the centre of images."""
    return comparison.Case(
        dataset=images.inpainted,
        task=inpainting_task,
        backbone=images.backbone,
        fitted=images.fitted,
    )


def other(name):
    """A row for another data set, or for one's own images."""
    base, task = comparison.named_task(name)
    if task == "inpainting":
        return filled_in(Images(base))
    images = Images(name)
    is_inpainted = name in names() and entry(name).task == "inpainting"
    task = inpainting_task if is_inpainted else training.task_for
    return comparison.Case(
        dataset=images.dataset, task=task, backbone=images.backbone, fitted=images.fitted
    )


DIGITS = Images("digits", patch_size=2, white=16)
CIFAR10 = Images("cifar10", patch_size=4, white=255)
STUDY = comparison.Study(
    name="vision",
    modality="vision",
    title="Vision: poolers on frozen Vision Transformers",
    options=Options(),
    cases={
        "digits": classification(DIGITS),
        "cifar10": classification(CIFAR10),
        "cifar10_inpainting": filled_in(CIFAR10),
    },
    other=other,
    quick={**comparison.QUICK, "datasets": ("digits",), "pretrain_epochs": 2},
)

if __name__ == "__main__":
    sys.exit(comparison.main(STUDY))
