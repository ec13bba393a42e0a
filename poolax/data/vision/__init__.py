"""Images: public data sets, and the tasks that are made of them."""

from poolax.data._entry import Entry
from poolax.data.vision import (
    _celeba,
    _cifar,
    _cub,
    _digits,
    _flowers,
    _imagenet,
    _miniplaces,
    _pets,
    _voc,
)
from poolax.data.vision._digits import digits as digits
from poolax.data.vision._images import ImageArrays as ImageArrays
from poolax.data.vision._images import ImageFiles as ImageFiles
from poolax.data.vision._images import Images as Images
from poolax.data.vision._images import fit_image as fit_image
from poolax.data.vision._images import fit_labels as fit_labels
from poolax.data.vision._inpainting import MaskedImages as MaskedImages
from poolax.data.vision._inpainting import inpainting as inpainting
from poolax.data.vision._segmentation import grid_labels as grid_labels
from poolax.data.vision._segmentation import segmentation as segmentation

ENTRIES: tuple[Entry, ...] = (
    *_cifar.ENTRIES,
    *_imagenet.ENTRIES,
    *_cub.ENTRIES,
    *_miniplaces.ENTRIES,
    *_celeba.ENTRIES,
    *_flowers.ENTRIES,
    *_pets.ENTRIES,
    *_voc.ENTRIES,
    *_digits.ENTRIES,
)
