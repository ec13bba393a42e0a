"""Which pooler, with a few images of each class: from a folder with a folder for each class.

    python experiments/examples/few_shot_images.py
    python experiments/examples/few_shot_images.py --images photos --size 224 --backbone dinov2-small/

A few images of each class are drawn several times, the same ones for all poolers, and heads are trained
to the end on the states of a frozen backbone, which sees each image once. Without --images, handwritten
digits are written to a temporary folder, as an example of how one looks. Without --backbone it is a
small ViT with random weights, so that nothing is downloaded: scores are those of random features.
"""

if __name__ == "__main__":
    from poolax.startup import take_signals

    take_signals("few_shot_images")

import contextlib
import dataclasses
import pathlib
import sys
import tempfile
from collections.abc import Iterator
from typing import ClassVar

import jax
import numpy as np
import tyro
from PIL import Image

from poolax import backbones, data, reporting, training
from poolax.cli import COMPLETE, OptionalText, check_count, run_program, show


def write_digits(folder: pathlib.Path) -> None:
    """Handwritten digits as files, ``CLASS/NUMBER.png``."""
    digits = data.digits()
    names = digits.class_names or ()
    for number, (image, label) in enumerate(zip(digits.inputs, digits.targets, strict=True)):
        place = folder / names[label]
        place.mkdir(exist_ok=True)
        grey = np.asarray(255 / 16 * image[..., 0], np.uint8)
        Image.fromarray(grey).save(place / f"{number}.png")


@contextlib.contextmanager
def folder_of(images: str | None) -> Iterator[pathlib.Path]:
    """The folder of images that is given, or one of digits for a while."""
    if images is not None:
        yield pathlib.Path(images)
        return
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder) / "digits"
        place.mkdir()
        write_digits(place)
        yield place


def backbone_of(name: str | None, size: int) -> tuple[backbones.Backbone, str]:
    """A backbone and what tables call it."""
    if name is not None:
        return backbones.load(name), name
    config = backbones.ViTConfig(size, 4, 3, width=64, num_layers=2, num_heads=4, mlp_dim=128)
    preprocess = backbones.ImagePreprocess(scale=1 / 255)
    return backbones.ViT.init(config, jax.random.key(0), preprocess), "random ViT"


@dataclasses.dataclass(frozen=True)
class FewShotImages:
    """Compare poolers on a few images of each class.

    Attributes:
        images: Folder with a folder of images for each class; by default digits in a temporary one.
        backbone: Folder or hub id of a model that reads images; by default a ViT with random weights.
        size: Pixels a side that images are brought to.
        shots: Images of each class to train on.
        draws: How often they are drawn.
        poolers: What is compared.
        out: Folder for records, table and figure.
        debug: Show where an error comes from.
    """

    resumable: ClassVar[bool] = True

    images: OptionalText = None
    backbone: OptionalText = None
    size: int = 16
    shots: tuple[int, ...] = (1, 5, 10)
    draws: int = 5
    poolers: tuple[str, ...] = ("first", "avg", "max", "sum")
    out: str = "few-shot-images"
    debug: bool = False

    def run(self) -> int:
        """Run the command and give its exit code."""
        check_count("size", self.size, at_least=4)
        backbone, name = backbone_of(self.backbone, self.size)
        with folder_of(self.images) as folder:
            dataset = data.from_files(folder, size=self.size)
            records = training.few_shot(
                backbone,
                dataset,
                training.Classification(dataset.num_classes),
                shots=self.shots,
                draws=self.draws,
                poolers=self.poolers,
                name=name,
                out=self.out,
            )
        tables = reporting.size_tables(records)
        reporting.write_tables(tables, self.out, "scores")
        reporting.write_figure(reporting.plot_sizes, records, self.out, "scores")
        show(tables, [], as_json=False)
        return COMPLETE


if __name__ == "__main__":
    sys.exit(run_program("few_shot_images", lambda: tyro.cli(FewShotImages)))
