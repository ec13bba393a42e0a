"""The claims: what the paper's text says of poolers, and statements of ours."""

from collections.abc import Sequence
from typing import Any

from claims_records import DISTANCE, GPT2, MEANING, NOISE, SPREAD, at_length, under_attack

from poolax import bounds
from poolax.records import digest
from poolax.reporting import Claim, Contrast

MINILM = "all-MiniLM-L6-v2"
CIFAR10 = "ViT of cifar10 (100 epochs)"
DIGITS = "ViT of digits (100 epochs)"
SERIES = "patch transformer (100 epochs)"
DINOV2 = "dinov2-small"
SMOLLM2 = "smollm2-135m"
NONE = "none at hand"

SENTENCES = (
    ("banking77", "classification"),
    ("tweet_emotion", "classification"),
    ("stsb", "sentence_similarity"),
)
UCR = tuple(
    (name, "classification")
    for name in ("ecg200", "italy_power_demand", "small_kitchen_appliances", "swedish_leaf")
)
FORECASTING, IMPUTATION = ("etth1", "forecasting"), ("etth1", "imputation")
OBJECTS, INPAINTING = ("cifar10", "classification"), ("cifar10", "inpainting")


#: Of texts embeddings, of images pixels, of series steps.
NOISED = {
    MINILM: (("banking77", NOISE),),
    DINOV2: (("cifar10", NOISE),),
    SERIES: (("swedish_leaf", NOISE),),
}
BUDGETS = (3 / 255, 8 / 255)
LENGTHS = (16, 32, 64, 128)
FIXED = ("last", "avg", "sum", "max")
OTHERS = ("last", "avg", "max", "wavg", "attn")


def better(*labels: str, than: Sequence[str]) -> tuple[Contrast, ...]:
    """Each of these poolers is better than each of those."""
    return tuple(Contrast(label, other) for label in labels for other in than)


PAPER = [
    Claim(
        "1",
        "Noise moves sums most and averages least.",
        (*better("avg", than=("last", "max", "sum")), *better("last", "max", than=("sum",))),
        NOISED,
        solvers=("adam",),
    ),
    Claim(
        "2a",
        "Similar sentences move pooled vectors less than dissimilar ones.",
        tuple(Contrast(f"{name}, similar", f"{name}, dissimilar") for name in FIXED),
        {MINILM: (("sentences", DISTANCE),)},
        solvers=("adam",),
    ),
    Claim(
        "2b",
        "Sum and max tell similar sentences from dissimilar ones better than average.",
        better("sum", "max", than=("avg",)),
        {MINILM: (("sentences", MEANING),)},
        solvers=("adam",),
    ),
    Claim(
        "3a",
        "Average beats the other fixed poolers in inpainting.",
        better("avg", than=("last", "sum", "max")),
        {CIFAR10: (INPAINTING,)},
    ),
    Claim(
        "3b",
        "Average beats the other fixed poolers in segmentation and scene classification.",
        better("avg", than=("last", "sum", "max")),
        {NONE: (("voc", "segmentation"), ("miniplaces", "classification"))},
        missing="Pascal VOC's masks and MiniPlaces' images",
    ),
    Claim(
        "4a",
        "CLS is the best fixed pooler for object classification.",
        better("last", than=("avg", "sum", "max")),
        {CIFAR10: (OBJECTS,)},
    ),
    Claim(
        "4b",
        "Max and sum are the worst fixed poolers for object classification.",
        better("last", "avg", than=("sum", "max")),
        {CIFAR10: (OBJECTS,)},
    ),
    Claim(
        "5a",
        "Average beats last in text classification and similarity.",
        better("avg", than=("last",)),
        {MINILM: SENTENCES},
    ),
    Claim(
        "5b",
        "Sum beats last in text classification and similarity.",
        better("sum", than=("last",)),
        {MINILM: SENTENCES},
    ),
    Claim(
        "6",
        "Last wins in next-token prediction.",
        better("last", than=("avg", "sum", "max", "wavg", "attn")),
        {SMOLLM2: (("hellaswag", "next_token"),)},
    ),
    Claim(
        "7a",
        "Attention is best in classifying series.",
        better("attn", than=("last", "avg", "sum", "max", "wavg")),
        {SERIES: UCR},
    ),
    Claim(
        "7b",
        "Last and max are worst in classifying series.",
        better("avg", "sum", "attn", than=("last", "max")),
        {SERIES: UCR},
    ),
    Claim(
        "7c", "Sum beats average in classifying series.", better("sum", than=("avg",)), {SERIES: UCR}
    ),
    Claim(
        "8a",
        "Last is best in forecasting.",
        better("last", than=("avg", "sum", "max", "wavg", "attn")),
        {SERIES: (FORECASTING,)},
    ),
    Claim(
        "8b",
        "Attention is best in imputation.",
        better("attn", than=("last", "avg", "sum", "max", "wavg")),
        {SERIES: (IMPUTATION,)},
    ),
    Claim(
        "8c",
        "Sum is worst in imputation.",
        better("last", "avg", "max", "wavg", "attn", than=("sum",)),
        {SERIES: (IMPUTATION,)},
    ),
    Claim(
        "9a",
        "W-Avg matches or beats the best fixed pooler.",
        (Contrast("wavg", "best fixed", "not_worse"),),
        {
            MINILM: (*SENTENCES, ("hellaswag", "sentence_completion")),
            CIFAR10: (OBJECTS, INPAINTING),
            SERIES: (*UCR, FORECASTING, IMPUTATION),
        },
    ),
    Claim(
        "9c",
        "W-Avg is best at every number of tokens.",
        better("wavg", than=("last", "avg", "sum", "max", "attn")),
        {MINILM: tuple(("hellaswag", at_length("sentence_completion", number)) for number in LENGTHS)},
    ),
    Claim(
        "9b",
        "W-Avg's weights are near uniform on classification, and peak at the last of next tokens.",
        missing="a statement about scores; weights.py shows the weights",
    ),
    Claim(
        "10a",
        "Differences shrink with the size of the model: the best pooler less the worst one.",
        (Contrast("192", "128"), Contrast("128", "64")),
        {GPT2: (("banking77", f"{SPREAD}, classification"),)},
    ),
    Claim("10b", "Attention is unstable on large models.", missing="models of billions of parameters"),
    Claim(
        "11",
        "Sum is attacked least successfully by FGSM.",
        better("sum", than=OTHERS),
        {DINOV2: tuple(("cifar10", under_attack("fgsm", radius)) for radius in BUDGETS)},
    ),
]
#: Claims on a token in front, which not all backbones have.
OF_CLS = ("4a",)
_SUM = (Contrast("avg", "sum", "equal"),)
_AS_MANY = {DIGITS: (("digits", "classification"),), CIFAR10: (OBJECTS, INPAINTING), SERIES: UCR}
OWN = [
    Claim(
        "A",
        "With as many tokens in every input average and sum are equal, trained to the end.",
        _SUM,
        _AS_MANY,
        source="ours",
        solvers=("converged",),
    ),
    Claim(
        "Ab",
        "With as many tokens in every input average and sum are equal after the paper's steps.",
        _SUM,
        _AS_MANY,
        source="ours",
        solvers=("adam",),
    ),
]


def factors(num_tokens: int, dim: int = 384) -> dict[str, dict[str, float]]:
    """How much pooled vectors move at most, by what the tokens move: all together, or each of them.

    Args:
        num_tokens: Number of tokens.
        dim: Width.
    """
    found = {}
    for name in ("avg", "last", "max", "sum"):
        bound = bounds.pooler(name, num_tokens=num_tokens, dim=dim)
        found[name] = {"together": float(bound.l2), "each": float(bound.l1)}
    return found


def geometry() -> dict[str, Any]:
    """Our claim on the order of bounds, which is computed and not estimated."""
    sizes = (4, 16, 64, 256)
    known = {n: factors(n) for n in sizes}

    def ordered(norm: str, one: str, other: str) -> bool:
        return all(found[one][norm] < 0.999 * found[other][norm] for found in known.values())

    same = all(abs(found["avg"]["each"] / found["last"]["each"] - 1) < 1e-3 for found in known.values())
    holds = same and ordered("together", "avg", "last") and ordered("each", "avg", "sum")
    shown = {
        norm: ", ".join(f"{name} {found[norm]:.3g}" for name, found in known[64].items())
        for norm in ("together", "each")
    }
    return {
        "kind": "claim",
        "id": digest(["B"]),
        "claim": "B",
        "text": "Under a budget for each token average has factor 1 like last: the paper's order of "
        "bounds depends on the norm.",
        "source": "ours",
        "backbone": None,
        "pretrained": "any",
        "solver": None,
        "verdict": "supported" if holds else "contradicted",
        "missing": "",
        "found": f"computed; at 64 tokens of width 384, under a budget for all together: "
        f"{shown['together']}; for each: {shown['each']}",
        "adjusted": None,
        "p_for": None,
        "p_against": None,
        "comparisons": [],
        "paper": None,
        "records": digest(list(sizes)),
    }
