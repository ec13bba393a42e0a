"""What files of processors say of images: their size, and what becomes of their pixels."""

import pathlib
from collections.abc import Mapping
from typing import Any

from poolax._checks import check_choice
from poolax.backbones._geometry import RESAMPLES, ImageGeometry
from poolax.backbones._images import ImagePreprocess
from poolax.backbones.pretrained._sources import read_json_object

_GREY = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
_IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
_CLIP = {
    "size": {"shortest_edge": 224},
    "crop_size": 224,
    "do_center_crop": True,
    "resample": 3,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
# What the reference's processors do where a file leaves it out, by the stems of their names.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "ViT": {"size": 224, "resample": 2, **_GREY},
    "DeiT": {"size": 256, "crop_size": 224, "do_center_crop": True, "resample": 3, **_GREY},
    "Beit": {"size": 224, "crop_size": 224, "resample": 3, **_GREY},
    "Bit": _CLIP,
    "CLIP": _CLIP,
    "Siglip": {"size": {"height": 224, "width": 224}, "resample": 3, **_GREY},
    "DINOv3ViT": {"size": 224, "resample": 2, **_IMAGENET},
}
# For whom one number is the shorter edge, not both sides.
_BY_SHORTER_EDGE = ("Bit", "CLIP", "Siglip")
_ENDINGS = ("Fast", "Pil", "ImageProcessor", "FeatureExtractor")


def read_preprocess(directory: pathlib.Path, raw: Mapping[str, Any], config: Any) -> ImagePreprocess:
    """From the files of processors; pixel values to -1..1 in any size if there are none.

    Args:
        directory: Folder of the model.
        raw: Its configuration, unused.
        config: Ours, unused.

    Returns:
        The preprocessing. Without a size in the file, and without the name of a processor that has one
        of its own, images keep theirs.

    Raises:
        ValueError: for fields of other types, or sizes that are told otherwise than by the shorter
            edge, or height and width.
    """
    del raw, config
    # Where processors of texts and images were saved as one, which the reference looks for first.
    given = read_json_object(directory / "processor_config.json").get("image_processor")
    given = given or read_json_object(directory / "preprocessor_config.json")
    if not given:
        return ImagePreprocess()
    kind = _kind(given)
    fields = {"image_mean": None, "image_std": None, **_DEFAULTS.get(kind, {}), **given}
    geometry = _geometry(fields, by_shorter_edge=kind in _BY_SHORTER_EDGE)
    scale = fields.get("rescale_factor", 1 / 255) if fields.get("do_rescale", True) else 1.0
    if not fields.get("do_normalize", True):
        return ImagePreprocess(scale=scale, mean=0.0, std=1.0, geometry=geometry)
    mean, std = (_numbers(fields, name) for name in ("image_mean", "image_std"))
    return ImagePreprocess(scale=scale, mean=mean, std=std, geometry=geometry)


def _kind(fields) -> str:
    """Stem of the name of a processor, ``"ViT"`` of ``"ViTImageProcessorFast"``."""
    name = str(fields.get("image_processor_type") or fields.get("feature_extractor_type") or "")
    for ending in _ENDINGS:
        name = name.removesuffix(ending)
    return name


def _numbers(fields, name) -> float | tuple[float, ...]:
    value = fields[name]
    if value is None:
        raise ValueError(f"config: expected a field {name!r}, got {', '.join(sorted(fields))}")
    return tuple(value) if isinstance(value, list) else value


def _geometry(fields, *, by_shorter_edge) -> ImageGeometry | None:
    resize = crop = None
    if fields.get("do_resize", True) and fields.get("size") is not None:
        resize = _read_size(fields["size"], "size", by_shorter_edge=by_shorter_edge)
    if fields.get("do_center_crop", False):
        crop = _read_size(fields.get("crop_size"), "crop_size", by_shorter_edge=False)
    if resize is None and crop is None:
        return None
    number = fields.get("resample", RESAMPLES.index("bilinear"))
    check_choice("resample", number, range(len(RESAMPLES)))
    return ImageGeometry(resize=resize, crop=crop, resample=RESAMPLES[number])  # type: ignore[arg-type]


def _read_size(size, field, *, by_shorter_edge) -> int | tuple[int, int]:
    if isinstance(size, int):
        return size if by_shorter_edge else (size, size)
    told = size if isinstance(size, dict) else {}
    # Edges that are not used stand there without a value in some files.
    told = {edge: length for edge, length in told.items() if length is not None}
    if told.keys() == {"height", "width"}:
        return told["height"], told["width"]
    if told.keys() == {"shortest_edge"} and field == "size":
        return told["shortest_edge"]
    raise ValueError(
        f"config: expected {field} to be one number, shortest_edge, or height and width, got {size!r}"
    )
