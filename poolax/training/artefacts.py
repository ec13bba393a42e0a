"""Trained heads as files that JAX alone runs, for inputs of any number and length."""

import json
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.export
import jax.numpy as jnp
from etils import epath

from poolax._checks import check_choice, check_instance
from poolax._paths import absolute_path, write_atomically
from poolax.backbones import Backbone, Preprocess, SeriesPreprocess, TextPreprocess
from poolax.records import as_written, environment
from poolax.training._engine.heads import Head
from poolax.training._states.prefixes import leave_out, prefix_of
from poolax.training.exports import check_backbone_of
from poolax.training.onnx_graphs import check_converts, onnx_graph
from poolax.training.tasks import SentenceCompletion, SentenceSimilarity

PLATFORMS = ("cpu", "cuda", "tpu")
# Their heads read several sequences an example, each by itself.
_IN_PARTS = (SentenceSimilarity.name, SentenceCompletion.name)


def export_head(
    head: Head,
    path: epath.PathLike,
    *,
    backbone: Backbone | None = None,
    format: Literal["jax", "onnx"] = "jax",
    class_names: Sequence[str] | None = None,
) -> None:
    """Write a trained head, with its backbone or without, as one file that JAX alone runs.

    The file is an artefact of :mod:`jax.export` for CPU, CUDA and TPU, with weights in it and for any
    number of inputs and tokens. ``jax.export.deserialize(bytearray(content)).call(inputs, mask)`` gives
    the head's outputs, such as logits, in a process that has neither poolax nor Flax. What the inputs
    are, and how raw ones become them, is described beside it, in ``PATH.json``; of texts
    ``PATH.tokenizer.json`` has the tokenizer, which the library tokenizers reads.

    ``format="onnx"`` writes an ONNX graph of a head on token states instead, for any number of inputs
    and tokens too, made by jax2onnx (``pip install "poolax[onnx]"``) without PyTorch and TensorFlow and
    compared with the head in onnxruntime before it is written. Backbones are left out of it: of their
    attention jax2onnx 0.17 writes an operator that onnxruntime 1.32 does not have.

    Args:
        head: What :func:`load_head` gives.
        path: File, local or ``gs://``; overwritten where it is there.
        backbone: The backbone that the head was trained on, whose inputs the artefact then takes: token
            ids ``(b, n)`` and their mask, images ``(b, height, width, channels)``, or series ``(b,
            steps)`` and their mask, before they are scaled. ``None`` for token states ``(b, n, d)`` and
            their mask.
        format: ``"jax"``, or ``"onnx"`` for poolers without parameters, weighted averages, latents and
            queries.
        class_names: Names of the classes in the order of the outputs, which the description then holds,
            such as those of a data set; ``None`` for none.

    Raises:
        ValueError: for other than a name for each output, or a backbone that the head was not trained
            on; of ``"onnx"`` also for any backbone or another pooler, without jax2onnx, or where its
            graph gives other numbers than the head.

    Example:
        >>> import pathlib, tempfile
        >>> import numpy as np
        >>> from poolax.training import Classification, advise_states
        >>> rng = np.random.default_rng(0)
        >>> states, labels = rng.normal(size=(60, 4, 8)).astype(np.float32), np.arange(60) % 2
        >>> head = advise_states(states, None, labels, Classification(2), poolers=["avg"]).head
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = pathlib.Path(folder, "head.jax")
        ...     export_head(head, file)
        ...     exported = jax.export.deserialize(bytearray(file.read_bytes()))
        >>> longer = rng.normal(size=(3, 9, 8)).astype(np.float32)
        >>> bool(np.allclose(exported.call(longer, np.ones((3, 9), bool)), head.predict(longer)))
        True
    """
    check_instance("head", head, Head, "a Head")
    check_choice("format", format, ("jax", "onnx"))
    if backbone is None:
        call, arguments, described = _on_states(head)
    else:
        check_instance("backbone", backbone, Backbone, "a Backbone")
        check_backbone_of(head, backbone)
        call, arguments, described = _on_inputs(head, backbone)
    if format == "onnx":
        if backbone is not None:
            raise ValueError(
                'backbone: expected None for format "onnx", which takes token states, got '
                f"{type(backbone).__name__}"
            )
        check_converts(head.pooler)
    shape = _axes(jax.eval_shape(call, *arguments).shape)
    outputs: dict[str, Any] = {"dtype": "float32", "shape": shape}
    if class_names is not None:
        if len(class_names) != shape[-1]:
            raise ValueError(
                f"class_names: expected one for each of {shape[-1]} outputs, got {len(class_names)}"
            )
        outputs["class_names"] = list(class_names)
    if format == "onnx":
        names = [one["name"] for one in described]
        content = onnx_graph(call, arguments, names=names, sizes=_some_sizes(head))
        runs = {"format": "onnx"}
    else:
        exported = jax.export.export(jax.jit(call), platforms=PLATFORMS)(*arguments)
        content = bytes(exported.serialize())
        runs = {"format": "jax", "platforms": list(PLATFORMS)}
    about = {
        "inputs": described,
        "outputs": outputs,
        **runs,
        "head": as_written(dict(head.config)),
        **environment(),
    }
    target = absolute_path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    if backbone is not None and isinstance(backbone.preprocess, TextPreprocess):
        beside = target.parent / f"{target.name}.tokenizer.json"
        about["tokenizer"] = beside.name
        write_atomically(beside, backbone.preprocess.tokenizer_json)
    write_atomically(target, content)
    write_atomically(target.parent / f"{target.name}.json", json.dumps(about, indent=2).encode())


def _axes(shape) -> list[Any]:
    return [int(axis) if isinstance(axis, int) else str(axis) for axis in shape]


def _on_states(head: Head):
    """A head as a function of token states."""
    width = _width(head)
    scope = _scope(head, None)
    axes = _places(head)
    states = _symbolic(f"{axes}, {width}", jnp.float32, scope)
    mask = _symbolic(axes, jnp.bool_, scope)

    def call(states, mask):
        states = jnp.where(mask[..., None], states, 0)
        return head.predict(states, mask)

    described = [
        {"name": "states", "dtype": "float32", "shape": _axes(states.shape), "of": "token states"},
        {"name": "mask", "dtype": "bool", "shape": _axes(mask.shape), "of": "true at real tokens"},
    ]
    return call, (states, mask), described


def _places(head: Head) -> str:
    """Axes of the tokens of examples."""
    if head.joins_parts:
        return "b, 2, n"
    return "b, parts, n" if head.config.get("task") in _IN_PARTS else "b, n"


def _width(head: Head) -> int:
    """Width of the token states that a head reads."""
    if "scaling" in head.variables:
        return int(head.variables["scaling"]["mean"].shape[-1])
    width = head.config.get("width")
    return int(head.width if width is None else width)


def _on_inputs(head: Head, backbone: Backbone):
    """A backbone and a head as a function of what the backbone reads."""
    prepare = backbone.preprocess
    is_text = isinstance(prepare, TextPreprocess)
    skipped = 0
    if head.num_skipped is None:  # otherwise it leaves them out itself
        include = head.config.get("include_prefix", True)
        prompt = prepare.tokens_not_pooled() if is_text else 0
        skipped = prefix_of(head.pooler, backbone.num_prefix, include_prefix=include, prompt=prompt)

    def outputs(inputs, mask):
        tokens = backbone.apply(backbone.params, inputs, mask, layer=head.layer)
        return head.predict(*leave_out(tokens.states, tokens.mask, skipped))

    if is_text or backbone.modality == "language":
        scope = _scope(head, backbone)
        axes = _places(head)
        arguments = (_symbolic(axes, jnp.int32, scope), _symbolic(axes, jnp.bool_, scope))
        names = (("ids", "int32", "token ids"), ("mask", "bool", "true at real tokens"))
        extra = {"preprocess": backbone.preprocessing.describe_for((1,))}
        return outputs, arguments, _described_inputs(names, arguments, extra)
    if isinstance(prepare, SeriesPreprocess) or backbone.modality == "series":
        steps = backbone.config.num_steps
        scope = jax.export.SymbolicScope()
        arguments = (
            _symbolic(f"b, {steps}", jnp.float32, scope),
            _symbolic(f"b, {steps}", jnp.bool_, scope),
        )
        names = (("series", "float32", "values"), ("mask", "bool", "true at observed steps"))

        def of_series(series, mask):
            return outputs(*backbone.preprocessing.prepare(series, mask))

        extra = {"preprocess": backbone.preprocessing.describe_for((1, steps))}
        return of_series, arguments, _described_inputs(names, arguments, extra)
    size, channels = backbone.config.image_size, backbone.config.num_channels
    scope = jax.export.SymbolicScope()
    arguments = (_symbolic(f"b, {size}, {size}, {channels}", jnp.float32, scope),)

    def of_images(images):
        return outputs(*backbone.preprocessing.prepare(images, None))

    names = (("images", "float32", "channels last, of this size, before they are scaled"),)
    # How files of any size are brought to this one is part of it.
    extra = {"preprocess": Preprocess.describe_for(backbone.preprocessing, (1, size, size, channels))}
    return of_images, arguments, _described_inputs(names, arguments, extra)


def _described_inputs(names, arguments, extra) -> list[dict[str, Any]]:
    return [
        {"name": name, "dtype": dtype, "shape": _axes(argument.shape), "of": of, **extra}
        for (name, dtype, of), argument in zip(names, arguments, strict=True)
    ]


def _longest(head: Head, backbone: Backbone | None) -> int | None:
    """Most tokens that there are weights or positions for; ``None`` for any number."""
    limits = [
        leaf.shape[0]
        for place, leaf in jax.tree_util.tree_leaves_with_path(head.variables["params"])
        if jax.tree_util.keystr(place[-1:], simple=True) == "weights"
    ]
    if backbone is not None and isinstance(backbone.preprocess, TextPreprocess):
        limits.append(backbone.preprocess.max_tokens)
    return min(limits, default=None)


def _scope(head: Head, backbone: Backbone | None) -> jax.export.SymbolicScope:
    """Sizes that are any, lengths up to what has positions or weights."""
    longest = _longest(head, backbone)
    constraints = ["n >= 1", "b >= 1", *([] if longest is None else [f"n <= {longest}"])]
    return jax.export.SymbolicScope(constraints)


def _some_sizes(head: Head) -> list[dict[str, int]]:
    """Numbers of inputs, parts and tokens at which a graph is tried."""
    longest = _longest(head, None)
    lengths = [length for length in (1, 2, 7) if longest is None or length <= longest]
    return [{"b": batch, "parts": 2, "n": length} for batch in (1, 3) for length in lengths]


def _symbolic(axes: str, dtype: Any, scope: jax.export.SymbolicScope) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(jax.export.symbolic_shape(axes, scope=scope), dtype)
