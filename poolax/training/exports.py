"""Trained heads, for those who do not use poolax."""

import dataclasses

import jax
from etils import epath

from poolax import backbones
from poolax._checks import check_instance
from poolax.backbones import Backbone, TextPreprocess
from poolax.pooling import Pooler, ProjectedPool, SkipPool
from poolax.training._engine.heads import Head
from poolax.training._states.prefixes import prefix_of
from poolax.training._sweep.identities import fingerprint_of
from poolax.training.layers import OUTPUT
from poolax.training.tasks import SentenceCompletion, SentenceSimilarity

# Their outputs are what is compared, and so the embedding.
_COMPARED = (SentenceSimilarity.name, SentenceCompletion.name)


def export_sentence_transformers(
    head: Head | Pooler,
    backbone: Backbone,
    directory: epath.PathLike,
    *,
    with_output: bool | None = None,
) -> None:
    """Write a frozen backbone and a trained pooler as a folder that sentence-transformers loads.

    ``SentenceTransformer(directory).encode(texts)`` then gives what ``embed`` gives of
    ``backbones.load(directory)``. First, last, average and max, sums over the root of the count,
    weights by position, those side by side, linear layers and unit length are the reference's own
    modules. For any other pooler the folder holds a small PyTorch file, which the reference runs where
    it is told ``SentenceTransformer(directory, trust_remote_code=True)``.

    Args:
        head: What :func:`load_head` gives, or a pooler without parameters.
        backbone: The backbone that the head was trained on, loaded from a folder in Hugging Face
            layout.
        directory: Where to, local or ``gs://``; nothing may be there.
        with_output: Whether the head's linear layer is part of the embedding; ``None`` for heads of
            tasks that compare texts by its outputs.

    Raises:
        ValueError: if something is there, for a backbone of no texts or without such a folder, a head
            of another backbone, or a pooler that there is no PyTorch code for.
    """
    check_instance("backbone", backbone, Backbone, "a Backbone")
    check_instance("head", head, (Head, Pooler), "a Head or a Pooler")
    if not isinstance(backbone.preprocess, TextPreprocess):
        kind = type(backbone).__name__
        raise ValueError(f"backbone: expected one that tokenises texts, got {kind} without a tokenizer")
    pooler, params = _pooler_of(head, backbone, with_output)
    shapes = jax.eval_shape(pooler.init, jax.random.key(0), _one_token(backbone))
    if jax.tree.structure(shapes.get("params", {})) != jax.tree.structure(params):
        raise ValueError(f"head: expected a Head for {type(pooler).__name__}, which has parameters")
    longest = [
        leaf.shape[0]
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        if jax.tree_util.keystr(path[-1:], simple=True) == "weights"
    ]
    prepare = backbone.preprocess
    # No more tokens than there are weights by position.
    prepare = prepare.cut_to(min([*longest, prepare.max_tokens]))
    others = {name: part for name, part in backbone.params.items() if name != "pooler"}
    whole = dataclasses.replace(
        backbone,
        params={**others, "pooler": params} if params else others,
        pooler=pooler,
        preprocess=prepare,
    )
    backbones.save(whole, directory, format="huggingface")


def _one_token(backbone):
    return jax.ShapeDtypeStruct((1, backbone.config.width), "float32")


def _pooler_of(head, backbone, with_output):
    """The pooler of a head, and its parameters: without the tokens and with the layer as it was."""
    if isinstance(head, Pooler):
        return head, {}
    if not isinstance(head.pooler, Pooler):
        raise ValueError(f"head: expected one with a Pooler, got {type(head.pooler).__name__}")
    if head.layer != OUTPUT:
        raise ValueError(
            f"head: expected one that reads the output of its backbone, got one of layer {head.layer}"
        )
    check_backbone_of(head, backbone)
    pooler, params = head.pooler, head.variables["params"].get("pooler", {})
    include = head.config.get("include_prefix", True)
    skipped = prefix_of(pooler, backbone.num_prefix, include_prefix=include)
    if skipped:
        pooler, params = SkipPool(pooler, skipped), {"pooler": params} if params else {}
    compared = head.config.get("task") in _COMPARED
    if with_output and head.joins_parts:
        raise ValueError(
            "with_output: expected False for a head of pairs, whose linear layer reads both, got True"
        )
    if compared if with_output is None else with_output:
        pooler = ProjectedPool(pooler, head.config["num_outputs"])
        inner = {"pooler": params} if params else {}
        params = {"dense": head.variables["params"]["output"], **inner}
    return pooler, params


def check_backbone_of(head: Head, backbone: Backbone) -> None:
    """Refuse a backbone that a head was not trained on, where its checkpoint says on which it was."""
    known = head.config.get("backbone_fingerprint")
    if known not in (None, fingerprint_of(backbone)):
        raise ValueError(
            f"backbone: expected the one that the head was trained on, whose fingerprint is {known}, "
            f"got {fingerprint_of(backbone)}; after a sweep with max_tokens=N give "
            "backbone.replace(preprocess=backbone.preprocess.cut_to(N)), with a prompt "
            "with_prompt(prompt)"
        )
