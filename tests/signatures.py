"""Signatures of the names that others rely on: ``python tests/signatures.py`` writes them down anew."""

import importlib
import inspect
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import flax.linen as nn

GOLDEN = pathlib.Path(__file__).parent / "golden" / "signatures.txt"

# Names of each part, or what is called or read of a class; what is built later comes in with its work.
CONTRACT = {
    "pooling": """
        first_pool last_pool average_pool sum_pool max_pool weighted_average_pool Pooler.__call__
        FirstPool LastPool AveragePool SumPool MaxPool WeightedAveragePool
        LatentAttentionPool.__call__ QueryAttentionPool.__call__ HybridPool from_name
    """,
    "attention": "DotProduct L2 Cosine MultiHeadAttention.__call__ from_name to_config",
    "blocks": "TBM.__call__",
    "bounds": """
        cube Domain domain_of TokenRange dot_product_attention l2_attention cosine_attention
        attention AttentionBound pooler PoolerBound register_pooler pooling_factor pooled_block tbm
        Bound.gamma ExpressivityBound expressivity local_attention local_tbm local_ledger local_ledgers
        ledger Ledger.lipschitz certified_radius certify Certificate NoBoundError
    """,
    "empirical": """
        jacobian_norm power_iteration NormEstimate maximize_jacobian_norm SearchResult
        project_to_ball project_to_cube expressivity ExpressivityEstimate noise_curve NoiseCurve
        fgsm pgd AttackResult
    """,
    "backbones": """
        load save Backbone.apply Backbone.__call__ Backbone.embed Backbone.encode
        Backbone.layer_specs Backbone.pooler ViT.summary_token ViT.modality
        TextPreprocess.__call__ TokenStates
    """,
    "training": """
        sweep sweep_states few_shot save_checkpoint restore_checkpoint
        load_head Head.predict Limits export_head
    """,
    "statistics": "measure resample compare Resampled.interval Resampled.difference holm",
    "records": "Records.predictions Predictions",
}


def lines() -> Iterator[str]:
    """A line for each name of the contract that is there, annotations left out."""
    before = None
    for part, names in CONTRACT.items():
        module = importlib.import_module(f"poolax.{part}")
        for name in names.split():
            head, _, member = name.partition(".")
            value = getattr(module, head, None)
            if value is None or (member and not hasattr(value, member)):
                continue
            if head != before:
                yield f"{part}.{head}{_signature(value)}"
            before = head
            if member:
                yield f"{part}.{name}{_signature(inspect.getattr_static(value, member))}"


def _signature(value: Any) -> str:
    """Parameters with their defaults; nothing of properties and errors."""
    is_error = isinstance(value, type) and issubclass(value, Exception)
    if is_error or isinstance(value, property) or not callable(value):
        return ""
    signature = inspect.signature(value)
    plain = inspect.Parameter.empty
    parameters = [one.replace(annotation=plain) for one in signature.parameters.values()]
    if isinstance(value, type) and issubclass(value, nn.Module):
        # Flax adds two of its own.
        parameters = [one for one in parameters if one.name not in ("parent", "name")]
    # Functions and other objects by their names, not by where they lie.
    return re.sub(r"<(?:function |[\w.]+\.)(\w+)[^>]*>", r"\1", str(inspect.Signature(parameters)))


if __name__ == "__main__":
    GOLDEN.write_text("\n".join(lines()) + "\n")
