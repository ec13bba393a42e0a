"""What turns raw inputs into what a backbone takes, and what it says of itself."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import numpy as np

from poolax import codec
from poolax._inputs import are_integers


@runtime_checkable
class Preprocess(Protocol):
    """From raw inputs to what a backbone's ``apply`` takes; subclass it and declare what it takes.

    A plain function of raw inputs, without a mask, is enough for anything else, as in
    ``preprocess=jnp.log1p``. Give a class a ``repr`` that says its settings: heads of a sweep are known
    by it.

    Attributes:
        takes_mask: Whether it is called with inputs and mask and gives both back; otherwise the mask
            stays as it is.
        on_host: Whether it runs on the host, once for all inputs, and counts tokens itself: it is
            called with texts alone and gives token ids and their mask.

    Example:
        >>> import jax.numpy as jnp
        >>> class Differences(Preprocess):
        ...     takes_mask = True
        ...
        ...     def __call__(self, series, mask=None):
        ...         return jnp.diff(series), None if mask is None else mask[..., 1:] & mask[..., :-1]
        >>> Differences().prepare(jnp.array([1.0, 3.0, 6.0]), jnp.array([True, True, False]))
        (Array([2., 3.], dtype=float32), Array([ True, False], dtype=bool))
    """

    takes_mask: ClassVar[bool] = False
    on_host: ClassVar[bool] = False

    def __call__(self, raw: Any, /) -> Any:
        """Preprocess raw inputs."""
        ...

    def prepare(self, raw: Any, mask: Any = None) -> tuple[Any, Any]:
        """Preprocess raw inputs and their mask, as declared; token ids pass where texts are taken.

        Args:
            raw: Images, texts or series, or token ids.
            mask: True at real tokens or observed steps; ``None`` for texts.

        Returns:
            Inputs and mask.

        Raises:
            ValueError: for texts with a mask.
        """
        call: Any = self  # of one argument or two, as declared
        if self.on_host:
            if are_integers(raw):
                return raw, mask
            if mask is not None:
                raise ValueError("mask: expected None for texts, whose tokens are counted here")
            return call(raw)
        return call(raw, mask) if self.takes_mask else (call(raw), mask)

    def collect(self, raw: Sequence[Any]) -> Any:
        """Raw inputs of a list as one array, so that they can be indexed.

        Args:
            raw: The inputs.

        Returns:
            The array.
        """
        return np.asarray(raw)

    def cut_to(self, max_tokens: int) -> Self:
        """The same with so many tokens of a text at most.

        Raises:
            ValueError: where no texts are read, or fewer tokens.
        """
        kind = type(self).__name__
        raise ValueError(f"max_tokens: expected None for {kind}, which cuts no texts, got {max_tokens}")

    def describe_for(self, shape: tuple[int, ...]) -> Any:
        """What records say of inputs of a shape ``(N, ...)``, plain JSON.

        Name and options of what is registered in :mod:`poolax.codec`, the ``repr`` of anything else.
        """
        del shape
        if codec.name_of(type(self)) is None:
            return repr(self)
        return codec.to_plain(self, of="preprocess", name="preprocess")


@dataclasses.dataclass(frozen=True)
class NoPreprocess(Preprocess):
    """Leaves inputs as they are."""

    takes_mask: ClassVar[bool] = True

    def __call__(self, raw: Any, mask: Any = None) -> tuple[Any, Any]:
        """Inputs and mask as they are."""
        return raw, mask

    def describe_for(self, shape: tuple[int, ...]) -> None:
        """Nothing was done."""


@dataclasses.dataclass(frozen=True)
class FunctionPreprocess(Preprocess):
    """A plain function of raw inputs.

    Attributes:
        function: From raw inputs to what the backbone takes; masks stay as they are.
    """

    function: Callable[[Any], Any]

    def __call__(self, raw: Any) -> Any:
        """What the function gives."""
        return self.function(raw)

    def __repr__(self):
        """That of the function, by which records know it."""
        return repr(self.function)


def as_preprocess(given: Preprocess | Callable[[Any], Any] | None) -> Preprocess:
    """What a backbone was given, so that it says of itself what it takes.

    Example:
        >>> as_preprocess(None).prepare([1.0])
        ([1.0], None)
        >>> as_preprocess(abs).prepare(-2)
        (2, None)
    """
    if given is None:
        return NoPreprocess()
    return given if isinstance(given, Preprocess) else FunctionPreprocess(given)
