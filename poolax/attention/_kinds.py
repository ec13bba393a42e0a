"""Kinds of attention: frozen, hashable configurations."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from poolax import codec
from poolax._checks import check_instance, check_number, did_you_mean


@codec.register("attention", "dot")
@dataclasses.dataclass(frozen=True)
class DotProduct:
    """Dot-product attention: logits ``scale q_i . k_j``, values ``x_j W_V``.

    Attributes:
        scale: Scale of the logits, positive; ``None`` takes ``1 / sqrt(d_h)``. T5 has 1.

    Reference:
        Vaswani et al., "Attention Is All You Need" (2017).
    """

    scale: float | None = None

    def __post_init__(self):
        """Refuse a scale that is not positive."""
        if self.scale is not None:
            check_number("scale", self.scale, above=0.0)

    def logit_scale(self, head_dim: int) -> float:
        """The scale for heads of width ``head_dim``."""
        return 1.0 / math.sqrt(head_dim) if self.scale is None else self.scale


@codec.register("attention", "l2")
@dataclasses.dataclass(frozen=True)
class L2:
    """L2 attention: logits ``-|q_i - k_j|^2 / sqrt(d_h)`` with one kernel for query and key.

    With ``A_h = W_Q^h W_Q^{hT} / sqrt(d_h)``, head ``h`` averages ``x_j A_h W_V^h``, which makes it
    Lipschitz on all of space. A query bias, which the key shares, cancels.

    Attributes:
        plain_values: Average ``x_j W_V^h`` instead, as GPT-style code writes it. That has no global
            Lipschitz constant.

    Reference:
        Kim, Papamakarios and Mnih, "The Lipschitz Constant of Self-Attention" (ICML 2021).
    """

    plain_values: bool = False


@codec.register("attention", "cosine")
@dataclasses.dataclass(frozen=True)
class Cosine:
    """Scaled cosine attention: logits ``tau q_i . k_j`` and values ``nu v_j`` of normalised rows.

    Rows of queries, keys and values are divided by ``sqrt(|row|^2 + eps)``.

    Attributes:
        tau: Scale of the logits, positive.
        nu: Scale of the output, positive.
        eps: What keeps the normalisation Lipschitz (the nabla of the paper), positive.
        plain_values: Do not normalise the values, as the released LipsFormer code has it.

    Reference:
        Qi et al., "LipsFormer" (ICLR 2023).
    """

    tau: float = 10.0
    nu: float = 1.0
    eps: float = 1e-6
    plain_values: bool = False

    def __post_init__(self):
        """Refuse scales that are not positive."""
        for name in ("tau", "nu", "eps"):
            check_number(name, getattr(self, name), above=0.0)


Kind = DotProduct | L2 | Cosine


def from_name(name: str | Kind, **options: Any) -> Kind:
    """A kind of attention by its name, for command lines and records.

    Args:
        name: ``"dot"``, ``"l2"`` or ``"cosine"``; a kind passes through.
        **options: Attributes of the kind, such as ``tau``.

    Returns:
        The kind.

    Raises:
        ValueError: for an unknown name or option (the valid ones are listed), or for options beside a
            kind that exists already.

    Example:
        >>> from_name("cosine", tau=5.0)
        Cosine(tau=5.0, nu=1.0, eps=1e-06, plain_values=False)
    """
    if isinstance(name, Kind):
        if options:
            raise ValueError(f"options: expected none beside a kind, got {sorted(options)}")
        return name
    known = codec.lookup("attention")
    if not isinstance(name, str) or name not in known:
        hint = did_you_mean(name, known)
        raise ValueError(f"name: expected one of {', '.join(known)}, got {name!r}{hint}")
    valid = codec.option_names(known[name])
    unknown = sorted(set(options) - set(valid))
    if unknown:
        raise ValueError(f"options of {name!r}: expected {', '.join(valid)}, got {', '.join(unknown)}")
    return known[name](**options)


def to_config(kind: Kind) -> dict[str, Any]:
    """Name and options of a kind of attention as plain JSON, for records and checkpoints.

    Args:
        kind: A kind.

    Returns:
        ``{"name": ..., "options": {...}}``; :func:`from_config` gives the kind back.

    Raises:
        ValueError: for anything but a kind.

    Example:
        >>> to_config(L2())
        {'name': 'l2', 'options': {'plain_values': False}}
        >>> from_config(to_config(Cosine(tau=5.0))).tau
        5.0
    """
    check_kind(kind)
    return codec.to_plain(kind, of="attention", name="kind")


def from_config(config: Mapping[str, Any]) -> Kind:
    """The kind of attention that :func:`to_config` described.

    Args:
        config: ``{"name": ..., "options": {...}}``.

    Returns:
        The kind.

    Raises:
        ValueError: for anything else than a name and options, or an unknown one.
    """
    check_instance("config", config, Mapping, "a mapping with name and options")
    kind = codec.from_plain(config, of="attention", name="config")
    check_kind(kind)
    return kind


def check_kind(kind: Any) -> None:
    """Refuse anything but a kind of attention; of a kind's name, say what gives the kind."""
    if not isinstance(kind, Kind):
        known = tuple(codec.lookup("attention"))
        hint = f"; attention.from_name({kind!r}) gives one" if kind in known else ""
        raise ValueError(f"kind: expected DotProduct, L2 or Cosine, got {kind!r}{hint}")
