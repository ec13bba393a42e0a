"""The families whose checkpoints are read: the one list of them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from poolax._checks import did_you_mean
from poolax.backbones.pretrained._bert import BERT_FAMILIES
from poolax.backbones.pretrained._decoder import DECODER_FAMILIES
from poolax.backbones.pretrained._gpt2 import GPT2_CHECKPOINT
from poolax.backbones.pretrained._lipsformer import LIPSFORMER
from poolax.backbones.pretrained._moment import MOMENT
from poolax.backbones.pretrained._patchtst import PATCHTST
from poolax.backbones.pretrained._sources import Architecture
from poolax.backbones.pretrained._swin import SWIN
from poolax.backbones.pretrained._t5 import T5_CHECKPOINT
from poolax.backbones.pretrained._timesfm import TIMESFM
from poolax.backbones.pretrained._timm import TIMM_VIT
from poolax.backbones.pretrained._timm_beit import TIMM_BEIT
from poolax.backbones.pretrained._timm_eva import TIMM_EVA
from poolax.backbones.pretrained._vit import VIT_FAMILIES

ARCHITECTURES: tuple[Architecture, ...] = (
    *VIT_FAMILIES,
    *(TIMM_BEIT, TIMM_EVA, TIMM_VIT, SWIN, LIPSFORMER),
    *BERT_FAMILIES,
    GPT2_CHECKPOINT,
    *DECODER_FAMILIES,
    *(T5_CHECKPOINT, MOMENT, TIMESFM, PATCHTST),
)


@dataclasses.dataclass(frozen=True)
class Family:
    """A class of backbones and the checkpoints that it is loaded from.

    Attributes:
        name: Name of the class in ``poolax.backbones``.
        modality: What it reads: ``"language"``, ``"vision"`` or ``"series"``.
        checkpoints: Values of ``model_type`` in a ``config.json``.
        tested: What its hidden states are compared with in the tests.
    """

    name: str
    modality: str
    checkpoints: tuple[str, ...]
    tested: tuple[str, ...]


def families() -> list[Family]:
    """The families that :func:`load` reads.

    Returns:
        One for each class, images first, then texts, then series.

    Example:
        >>> next(family.checkpoints[:2] for family in families() if family.name == "Bert")
        ('bert', 'roberta')
    """
    found = []
    for backbone in dict.fromkeys(architecture.backbone for architecture in ARCHITECTURES):
        parts = [one for one in ARCHITECTURES if one.backbone is backbone]
        checkpoints = [name for one in parts for name in one.names]
        tested = dict.fromkeys(one.tested for one in parts)
        found.append(Family(backbone.__name__, backbone.modality, tuple(checkpoints), tuple(tested)))
    return found


def find_architecture(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> Architecture:
    """The family of a checkpoint, by ``model_type`` or else by its configuration and tensors."""
    name = config.get("model_type")
    _refuse_without_reference(config)
    for architecture in ARCHITECTURES:
        if name in architecture.names or (name is None and architecture.recognizes(config, shapes)):
            return architecture
    valid = [name for architecture in ARCHITECTURES for name in architecture.names]
    hint = did_you_mean(name, valid)
    # All of them would push what came, and the hint, out of a line.
    raise ValueError(f"config: expected a model_type that 'poolax models' lists, got {name!r}{hint}")


def _refuse_without_reference(config):
    """Refuse what may say the ``model_type`` of another, and has nothing here to be compared with."""
    classes = config.get("architectures") or ()
    for found in (*classes, config.get("model_type")):
        if str(found).lower().startswith("chronos"):
            raise ValueError(
                f"config: expected a model that 'poolax models' lists, got {found!r}, which the "
                "reference library does not have; the nearest for series is 'timesfm2_5'"
            )
