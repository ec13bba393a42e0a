"""Recipes of pretraining by name."""

import dataclasses
from collections.abc import Callable

from poolax import backbones
from poolax.attention import L2, DotProduct
from poolax.training.pretraining import Optimisation

TEXTS = ("banking77", "hellaswag", "stsb", "tweet_emotion")
SERIES = ("ecg200", "italy_power_demand", "small_kitchen_appliances", "swedish_leaf", "etth1")


def _small_optimisation() -> Optimisation:
    return Optimisation(learning_rate=2e-3)


@dataclasses.dataclass(frozen=True)
class Preset:
    """A recipe: family, sizes, data and optimisation.

    Attributes:
        family: ``"gpt2"``, ``"bert"``, ``"vit"``, ``"lipsformer"``, ``"swin"`` or ``"moment"``.
        title: One line for people.
        data: Names of data sets that are read by default; none where data has to be given.
        quick: What ``--quick`` reads in place of it: data that comes with libraries.
        probe: Data sets whose classes a linear head tells apart, to see what the model is worth.
        width: Width of the tokens, of the first stage for window backbones.
        num_layers: Blocks; those of a LipsFormer or Swin are split over two stages.
        num_heads: Heads.
        block: Tokens of a row of text, or steps of a series.
        patch: Pixels a side of a patch, or steps of one.
        batch_size: Rows of a step, of all devices and micro-batches.
        steps: Steps of the optimizer.
        evaluate_every: Steps between two evaluations; ``None`` for the beginning and the end.
        vocab_size: Tokens of a tokenizer that is trained, or of the tokens that are given.
        hidden_fraction: Share of tokens or patches that is hidden.
        attention: ``"dot"`` or ``"l2"``, for a GPT-2.
        optimisation: By what and how fast.
    """

    family: str
    title: str
    data: tuple[str, ...]
    quick: tuple[str, ...]
    probe: tuple[str, ...]
    width: int
    num_layers: int
    num_heads: int
    block: int = 64
    patch: int = 4
    batch_size: int = 32
    steps: int = 1000
    evaluate_every: int | None = None
    vocab_size: int = 2048
    hidden_fraction: float = 0.5
    attention: str = "dot"
    optimisation: Optimisation = dataclasses.field(default_factory=_small_optimisation)

    def text_config(self, vocab_size: int):
        """Configuration of a language model.

        Args:
            vocab_size: Number of token ids.
        """
        sizes = (vocab_size, self.block, self.width, self.num_layers, self.num_heads, 4 * self.width)
        if self.family == "bert":
            return backbones.BertConfig(*sizes, num_token_types=0)
        kind = L2() if self.attention == "l2" else DotProduct()
        return backbones.GPT2Config(*sizes, kind)

    def image_config(self, side: int, channels: int):
        """Configuration of an image model.

        Args:
            side: Pixels a side.
            channels: Colour channels.
        """
        if self.family == "vit":
            sizes = (side, self.patch, channels, self.width, self.num_layers, self.num_heads)
            return backbones.ViTConfig(*sizes, 4 * self.width, use_mask_token=True)
        first = max(1, self.num_layers // 2)
        depths = (first, max(1, self.num_layers - first))
        heads = (self.num_heads, 2 * self.num_heads)
        family = backbones.LipsFormerConfig if self.family == "lipsformer" else backbones.SwinConfig
        return family(side, self.patch, channels, self.width, depths, heads, window_size=4)

    def series_config(self):
        """Configuration of a model of series."""
        return backbones.MomentConfig(
            num_steps=self.block,
            patch_len=self.patch,
            max_patches=self.block // self.patch,
            width=self.width,
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            head_dim=self.width // self.num_heads,
            mlp_dim=2 * self.width,
        )


PRESETS: dict[str, Callable[[], Preset]] = {}


def _named(name: str):
    def register(make: Callable[[], Preset]) -> Callable[[], Preset]:
        PRESETS[name] = make
        return make

    return register


def _of_paper(attention: str) -> Preset:
    return Preset(
        "gpt2",
        f"GPT-2 of 124M parameters, {attention} attention, as the paper trains it",
        data=(),
        quick=("topics",),
        probe=(),
        width=768,
        num_layers=12,
        num_heads=12,
        block=1024,
        batch_size=12 * 40,
        steps=60_000,
        evaluate_every=1000,
        vocab_size=50_257,
        attention=attention,
        optimisation=Optimisation(
            learning_rate=6e-4,
            warmup_steps=2000,
            weight_decay=0.1,
            accumulation=40,
            dtype="bfloat16",
            scan_layers=True,
        ),
    )


@_named("gpt2-paper")
def gpt2_paper() -> Preset:
    """GPT-2 with dot-product attention as in the paper.

    124M parameters, blocks of 1024 tokens, micro-batches of 12 rows, 40 of them a step, 60,000 steps;
    with several devices ``--accumulation`` is 40 over their number. Data are token files
    (``poolax data tokens``, or those of nanoGPT), for GPUs.
    """
    return _of_paper("dot")


@_named("gpt2-l2-paper")
def gpt2_l2_paper() -> Preset:
    """As ``gpt2-paper``, with L2 attention."""
    return _of_paper("l2")


# The texts are two megabytes: Muon's fast steps learn most of them in a few passes, and small tokens
# leave the parameters to the blocks.
_ON_TEXTS = Optimisation(
    optimizer="muon", learning_rate=1e-2, muon_learning_rate=0.05, final_fraction=0.0
)


def _small_gpt2(width: int, attention: str, steps: int) -> Preset:
    return Preset(
        "gpt2",
        f"GPT-2 of width {width}, {attention} attention",
        data=TEXTS,
        quick=("topics",),
        probe=("banking77",),
        width=width,
        num_layers=4,
        num_heads=4,
        block=64,
        batch_size=32,
        steps=steps,
        evaluate_every=-(-steps // 6),
        vocab_size=1024,
        attention=attention,
        optimisation=_ON_TEXTS,
    )


@_named("gpt2-64")
def gpt2_64() -> Preset:
    """GPT-2 of four layers of 64 on short English texts; 5.4 TFLOP of matrix products."""
    return _small_gpt2(64, "dot", 1500)


@_named("gpt2-128")
def gpt2_128() -> Preset:
    """As ``gpt2-64``, twice as wide; 18 TFLOP."""
    return _small_gpt2(128, "dot", 1500)


@_named("gpt2-192")
def gpt2_192() -> Preset:
    """As ``gpt2-64``, three times as wide; 38 TFLOP."""
    return _small_gpt2(192, "dot", 1500)


@_named("gpt2-l2-64")
def gpt2_l2_64() -> Preset:
    """As ``gpt2-64`` with L2 attention: same data, order of batches and seed."""
    return _small_gpt2(64, "l2", 1500)


@_named("gpt2-l2-128")
def gpt2_l2_128() -> Preset:
    """As ``gpt2-128`` with L2 attention."""
    return _small_gpt2(128, "l2", 1500)


@_named("gpt2-l2-192")
def gpt2_l2_192() -> Preset:
    """As ``gpt2-192`` with L2 attention."""
    return _small_gpt2(192, "l2", 1500)


@_named("bert")
def bert() -> Preset:
    """BERT of four layers of 128 on the texts of the GPT-2s, hidden tokens; 21 TFLOP.

    Norms stand behind its branches: at the rates of the GPT-2s it learns how frequent tokens are and no
    more.
    """
    return dataclasses.replace(
        _small_gpt2(128, "dot", 2000),
        family="bert",
        title="BERT of width 128",
        optimisation=dataclasses.replace(_ON_TEXTS, learning_rate=2e-3, muon_learning_rate=0.02),
        hidden_fraction=0.15,
    )


def _images(family: str, title: str, **sizes) -> Preset:
    return Preset(
        family,
        title,
        data=("cifar10",),
        quick=("digits",),
        probe=("cifar10",),
        num_layers=4,
        batch_size=64,
        evaluate_every=-(-sizes["steps"] // 6),
        hidden_fraction=0.6,
        optimisation=Optimisation(learning_rate=1e-3, weight_decay=0.05),
        **sizes,
    )


@_named("vit")
def vit() -> Preset:
    """ViT of four layers of 128 that fills in hidden patches of CIFAR-10; 15 TFLOP."""
    return _images("vit", "ViT of width 128", width=128, num_heads=4, steps=700)


@_named("lipsformer")
def lipsformer() -> Preset:
    """LipsFormer of two stages that fills in hidden patches of CIFAR-10; 4.6 TFLOP."""
    return _images("lipsformer", "LipsFormer of width 64", width=64, num_heads=2, steps=800)


@_named("swin")
def swin() -> Preset:
    """Swin of two stages that fills in hidden patches of CIFAR-10; 6.5 TFLOP."""
    return _images("swin", "Swin of width 64", width=64, num_heads=2, steps=1200)


@_named("moment")
def moment() -> Preset:
    """MOMENT's form, four layers of 64: hidden patches of UCR sets and ETTh1; 5.8 TFLOP."""
    return Preset(
        "moment",
        "MOMENT of width 64",
        data=SERIES,
        quick=("co2", "sunspots"),
        probe=("ecg200", "swedish_leaf", "small_kitchen_appliances"),
        width=64,
        num_layers=4,
        num_heads=4,
        block=512,
        patch=8,
        batch_size=64,
        steps=1200,
        evaluate_every=200,
        hidden_fraction=0.3,
        optimisation=Optimisation(learning_rate=1e-3, weight_decay=0.05),
    )
