"""What the paper's names are here, and what it does not say of its data and models."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set of the paper.

    Attributes:
        name: Its name in ``poolax.data``.
        near: Names of others that are called alike, or are of the same kind, but are not the same.
    """

    name: str
    near: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Measured:
    """A task of the paper with its metric.

    Attributes:
        task: Name of the task in records.
        metric: Name of the metric in records.
        unsaid: What of the data the paper does not say, so that no record can be of the same; empty
            where it says enough.
    """

    task: str
    metric: str
    unsaid: str = ""


DATA: Mapping[str, Data] = MappingProxyType(
    {
        "CIFAR-10": Data("cifar10"),
        "CIFAR-100": Data("cifar100"),
        "ImageNet-100": Data("imagenet100"),
        "CUB-200-2011": Data("cub200"),
        "MiniPlaces": Data("miniplaces"),
        "CelebA": Data("celeba"),
        "OxfordFlower-102": Data("flowers102"),
        "Oxford-IIIT Pet": Data("pets"),
        "PascalVOC-Cls": Data("voc"),
        "PascalVOC-Det": Data("voc"),
        "Banking": Data("banking77"),
        "Tweet": Data("tweet_sentiment", near=("tweet_emotion",)),
        "STSB": Data("stsb"),
        "HellaSwag": Data("hellaswag"),
        "TinyStories": Data("tinystories", near=("hellaswag",)),
        "ECG200": Data("ecg200"),
        "ElectricDevices": Data("electric_devices"),
        "FordA": Data("ford_a"),
        "FordB": Data("ford_b"),
        "SmallKitchenAppliances": Data("small_kitchen_appliances"),
        "SwedishLeaf": Data("swedish_leaf"),
        "ETTh1": Data("etth1"),
        "ETTh2": Data("etth2"),
        "ETTm1": Data("ettm1"),
        "ETTm2": Data("ettm2"),
        "Electricity": Data("electricity"),
        "Traffic": Data("traffic"),
        "Weather": Data("weather"),
    }
)

TASKS: Mapping[tuple[str, str], Measured] = MappingProxyType(
    {
        ("classification", "accuracy"): Measured("classification", "accuracy"),
        ("similarity", "spearman"): Measured("sentence_similarity", "spearman"),
        ("sentence_completion", "f1"): Measured("sentence_completion", "macro_f1"),
        ("next_token", "top10_accuracy"): Measured(
            "next_token", "top_10_accuracy", "which random batches it drew"
        ),
        ("inpainting", "mse"): Measured("inpainting", "mse", "which regions it masked"),
        ("segmentation", "pixel_accuracy"): Measured(
            "segmentation", "pixel_accuracy", "which labels its two columns are of"
        ),
        ("forecasting", "mse"): Measured("forecasting", "mse", "which windows it took"),
        ("imputation", "mse"): Measured("imputation", "mse", "which windows and gaps it took"),
        ("robustness", "attack_success_rate"): Measured("robustness", "attack_success_rate"),
    }
)

#: Last part of a checkpoint's name, of models of which the paper's name leaves one alone.
MODELS: Mapping[str, str] = MappingProxyType(
    {
        "MOMENT-small": "MOMENT-1-small",
        "MOMENT-base": "MOMENT-1-base",
        "MOMENT-large": "MOMENT-1-large",
    }
)
