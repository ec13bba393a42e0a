"""What makes a run of pretraining another one, beside its schedule."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from poolax import codec
from poolax.training.former import describe_config, same_config


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What is learned, and by what; kept in checkpoints as the codec writes it.

    Attributes:
        config: Configuration of the backbone.
        former: What earlier checkpoints call the objective.
        facts: What checkpoints say beside.
    """

    config: Any

    former: ClassVar[str]
    facts: ClassVar[Mapping[str, Any]] = {}

    def differing(self, saved: Mapping[str, Any]) -> list[str]:
        """Names of what a checkpoint says otherwise, in the form of now or as earlier ones said it."""
        options = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        told: dict[str, Any] = dict(saved)
        if "recipe" in saved:
            recipe = saved["recipe"]
            told = {"objective": recipe["name"], **recipe["options"]}
        config = told.pop("config", None)
        if isinstance(config, Mapping) and {"name", "options"} <= set(config):
            config = {name: part for name, part in config.items() if name != "type"}
        same = {name: told.get(name) == value for name, value in options.items()}
        same["config"] = same_config(config, describe_config(self.config))
        same["objective"] = told.get("objective") in (codec.name_of(type(self)), self.former)
        return [name for name, is_same in same.items() if not is_same]


@codec.register("recipe", "masked_series")
@dataclasses.dataclass(frozen=True)
class MaskedSeries(Recipe):
    """Hidden patches of series are filled in from the others.

    Attributes:
        hidden_fraction: Share of the patches that are hidden.
    """

    hidden_fraction: float

    former: ClassVar[str] = "masked patch reconstruction"


@codec.register("recipe", "masked_patches")
@dataclasses.dataclass(frozen=True)
class MaskedPatches(Recipe):
    """Hidden patches of images are filled in from the others; no loss reads the CLS token.

    Attributes:
        hidden_fraction: Share of the patches that are hidden.
    """

    hidden_fraction: float

    former: ClassVar[str] = "masked patch reconstruction"
    facts: ClassVar[Mapping[str, Any]] = {"cls_token_trained": False}


@codec.register("recipe", "next_token")
@dataclasses.dataclass(frozen=True)
class NextTokens(Recipe):
    """Each token of a text is predicted from those before it."""

    former: ClassVar[str] = "next token"
