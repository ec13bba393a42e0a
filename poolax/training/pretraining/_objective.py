"""What is learned in pretraining: the loss of rows, and the model that learns by it."""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from poolax import codec
from poolax.backbones import Backbone
from poolax.training.former import describe_config, same_config

Batch = Mapping[str, Array]


@dataclasses.dataclass(frozen=True)
class Objective(abc.ABC):
    """Abstract objective: what is learned, and by what; checkpoints keep it as the codec writes it.

    Attributes:
        config: Configuration of the backbone, which says its family.
        families: Configurations that the objective trains, and the backbones that they configure.
        former: What earlier checkpoints call the objective; ``None`` for one that came later.
        facts: What checkpoints say beside.
    """

    config: Any

    families: ClassVar[Mapping[type, type[Backbone]]]
    former: ClassVar[str | None] = None
    facts: ClassVar[Mapping[str, Any]] = {}

    def __post_init__(self):
        """Refuse a configuration of another family."""
        if type(self.config) not in self.families:
            names = ", ".join(family.__name__ for family in self.families)
            raise ValueError(f"config: expected one of {names}, got {type(self.config).__name__}")

    def model(self, preprocess: Any = None) -> Backbone:
        """The backbone without parameters.

        Args:
            preprocess: Maps raw inputs to the model's; kept in the model.

        Returns:
            The backbone.
        """
        family = self.families[type(self.config)]
        return family(params=None, config=self.config, preprocess=preprocess)

    def init(self, key: Array) -> PyTree:
        """Random parameters: those of the backbone, or of it and of what reads its states.

        Args:
            key: Random key.

        Returns:
            The parameters, from which :meth:`of_backbone` takes those of the backbone.
        """
        family: Any = self.families[type(self.config)]
        return family.init(self.config, key).params

    def of_backbone(self, params: PyTree) -> PyTree:
        """The backbone's own among all parameters."""
        return params

    def with_backbone(self, params: PyTree, of_backbone: PyTree) -> PyTree:
        """All parameters with others of the backbone."""
        del params
        return of_backbone

    @abc.abstractmethod
    def check(self, batch: Mapping[str, Any]) -> None:
        """Refuse a batch that does not fit the model; called with the first one.

        Args:
            batch: Arrays on the host.

        Raises:
            ValueError: for arrays that are missing, or of other shapes, dtypes or values.
        """

    @abc.abstractmethod
    def loss(
        self, model: Backbone, params: PyTree, batch: Batch, keys: Array
    ) -> tuple[Float[Array, " rows"], Float[Array, " rows"]]:
        """Sum of losses and sum of weights of each row; the loss is the ratio of all of them.

        Sums of rows add up over micro-batches and devices to those of one large batch, whatever number
        of tokens each row has.

        Args:
            model: The backbone, which says what it computes in; its own parameters are not looked at.
            params: As :meth:`init` gives them.
            batch: Arrays with a leading axis of rows.
            keys: A random key for each row.

        Returns:
            Losses and weights, shape ``(rows,)`` each.
        """

    def differing(self, saved: Mapping[str, Any]) -> list[str]:
        """Names of what a checkpoint says otherwise, in the form of now or as earlier ones said it."""
        plain = codec.to_plain(self, of="recipe")["options"]
        options = {name: value for name, value in plain.items() if name != "config"}
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


def array_of(batch: Mapping[str, Any], name: str, rank: int, axes: str) -> Any:
    """An array of a batch by name.

    Raises:
        ValueError: if it is not there or has another rank.
    """
    if name not in batch:
        raise ValueError(f"batch: expected {name!r} among its arrays, got {', '.join(sorted(batch))}")
    if jnp.ndim(batch[name]) != rank:
        raise ValueError(f"{name}: expected shape {axes}, got {jnp.shape(batch[name])}")
    return batch[name]


def choose_hidden(keys: Array, num_patches: int, num_hidden: int) -> Bool[Array, "rows patches"]:
    """True at ``num_hidden`` random patches of each row."""
    scores = jax.vmap(lambda key: jax.random.uniform(key, (num_patches,)))(keys)
    return jnp.argsort(jnp.argsort(scores, axis=-1), axis=-1) < num_hidden


def dense(key: Array, inputs: int, outputs: int) -> dict[str, Array]:
    """Random parameters of a linear layer."""
    kernel = jax.nn.initializers.lecun_normal()(key, (inputs, outputs))
    return {"kernel": kernel, "bias": jnp.zeros(outputs)}


def linear(params: Mapping[str, Array], x: Float[Array, "*batch i"]) -> Float[Array, "*batch o"]:
    """A linear layer in the precision of its input."""
    kernel = params["kernel"].astype(x.dtype)
    return x @ kernel + params["bias"].astype(x.dtype)
