"""The pages on the theory: complete, consistent in themselves, and with numbers that come out."""

import importlib
import json
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from test_public import public

from poolax import attention, blocks, bounds, cli, empirical, pooling
from poolax._theory import sections as installed_sections
from poolax.bounds._gaussian_rows import rows_together
from poolax.bounds._linalg import lambert_w
from poolax.records import AttentionBound, PoolerBound

NUMBER = r"\d+(?:\.\d+)?"
LIST = rf"{NUMBER}(?:(?:,? and |, | to ){NUMBER})*"


@pytest.fixture(scope="module")
def chapters(pytestconfig):
    """Text of each page by its name, in the order in which they are read."""
    paths = sorted((pytestconfig.rootpath / "poolax" / "docs" / "theory").glob("[0-9]*.md"))
    return {path.name: path.read_text() for path in paths}


@pytest.fixture(scope="module")
def page(chapters):
    return "\n".join(chapters.values())


@pytest.fixture(scope="module")
def sections(page):
    """Text of each section, those below it included, by its number."""
    found = list(re.finditer(rf"^#+ ({NUMBER}) (.+)$", page, re.MULTILINE))
    texts = {}
    for index, heading in enumerate(found):
        number = heading[1]
        inside = [later for later in found[index + 1 :] if not later[1].startswith(f"{number}.")]
        texts[number] = page[heading.start() : inside[0].start() if inside else len(page)]
    return texts


def numbers_in(listed):
    return re.findall(NUMBER, listed)


def references(pattern, text):
    """All section numbers that stand after ``pattern``, with line breaks taken as spaces."""
    joined = re.sub(r"\s+", " ", text)
    return [
        number for listed in re.findall(rf"{pattern} ({LIST})", joined) for number in numbers_in(listed)
    ]


def test_sections_are_numbered_in_order(page, chapters):
    chapter, part = 0, 0
    for level, number in re.findall(rf"^(#+) ({NUMBER}) .+$", page, re.MULTILINE):
        chapter, part = (chapter + 1, 0) if level == "#" else (chapter, part + 1)
        assert number == (str(chapter) if level == "#" else f"{chapter}.{part}")
    assert chapter == 12
    assert [int(name.partition("_")[0]) for name in chapters] == list(range(1, 13))
    assert all(text.startswith(f"# {int(name[:2])} ") for name, text in chapters.items())


@pytest.mark.parametrize("name", ["bounds", "empirical"])
def test_every_public_name_is_in_the_table(name, sections):
    names = dict(public(importlib.import_module(f"poolax.{name}")))
    missing = [one for one in names if not re.search(rf"`(?:{name}\.)?{one}`", sections["11"])]
    assert names
    assert not missing


def anchors_of(text):
    # GitHub's and MkDocs' anchors: lower case, punctuation dropped, spaces to hyphens.
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_references_inside_the_pages_resolve(page, chapters, sections, pytestconfig):
    index = (pytestconfig.rootpath / "poolax" / "docs" / "theory" / "index.md").read_text()
    pages = {"index.md": index} | chapters
    assert set(re.findall(r"\]\((\d\d_\w+\.md)\)", index)) >= set(chapters)
    anchors = {name: anchors_of(text) for name, text in pages.items()}
    found = 0
    for name, text in pages.items():
        for target, anchor in re.findall(r"\]\((?!\.\./)([\w.]*)#?([^)]*)\)", text):
            assert not anchor or anchor in anchors[target or name], (name, target, anchor)
            assert (target or name) in pages, (name, target)
            found += 1
    assert found > 30
    linked = re.findall(rf"\[section ({NUMBER})\]\([\w.]*#([^)]+)\)", re.sub(r"\s+", " ", page))
    assert linked
    assert all(anchor.startswith(number.replace(".", "")) for number, anchor in linked)
    cited = references("[Ss]ections?", page)
    assert len(cited) > 50
    assert not set(cited) - set(sections)
    table = re.findall(r"^\| `.+ \| (.+) \| .+ \|$", sections["11"], re.MULTILINE)
    assert all(numbers_in(row) and set(numbers_in(row)) <= set(sections) for row in table)
    lemmas = set(re.findall(r"^\*\*Lemma (\d)", page, re.MULTILINE))
    assert set(re.findall(r"Lemmas? (\d)(?!\.\d)", page)) <= lemmas


def test_references_from_docstrings_resolve(pytestconfig, sections):
    assert references("Theory, sections?", "see Theory, sections 4.1,\n    8.2 and 99.9") == [
        "4.1",
        "8.2",
        "99.9",
    ]
    for path in sorted((pytestconfig.rootpath / "poolax").rglob("*.py")):
        cited = references("Theory, sections?", path.read_text())
        assert not set(cited) - set(sections), path


def test_installed_sections_are_those_of_the_pages(sections, chapters):
    installed = installed_sections()
    assert installed.keys() == sections.keys()
    for number, section in installed.items():
        assert section.text.rstrip() == sections[number].rstrip()
        assert section.anchor in anchors_of(chapters[f"{section.page}.md"])


def test_the_command_prints_what_is_cited(capsys, sections, chapters):
    for asked, expected in {
        ("4.3",): sections["4.3"],
        ("4",): chapters["04_sharp_bounds.md"],
        ("sharp_bounds",): chapters["04_sharp_bounds.md"],
    }.items():
        assert cli.main(["docs", "theory", *asked]) == cli.COMPLETE
        assert capsys.readouterr().out.rstrip() == expected.rstrip()
    assert cli.main(["docs"]) == cli.COMPLETE
    listed = capsys.readouterr().out
    assert all(name in listed for name in chapters)
    assert cli.main(["docs", "theory", "9", "--json"]) == cli.COMPLETE
    row = json.loads(capsys.readouterr().out)
    assert (row["kind"], row["page"], row["title"]) == (
        "section",
        "09_certificates",
        "Margins and certified radius",
    )
    assert cli.main(["docs", "theory", "sharp_bound"]) == cli.USAGE
    message = capsys.readouterr().err
    assert "got 'sharp_bound'; did you mean 'sharp_bounds'?" in message
    assert message.count("\n") == 1


def test_formulas_survive_markdown(page):
    """What Markdown would take for itself, inside ``$…$``, never reaches a renderer of formulas."""
    assert page.count("```") % 2 == 0
    prose = re.sub(r"^```math$.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL)
    for paragraph in re.split(r"\n\n|\n(?=\||- )", prose):
        assert paragraph.count("$") % 2 == 0, paragraph
    formulas = re.findall(r"\$([^$]+)\$", prose)
    assert len(formulas) > 500
    for formula in formulas:
        assert not re.search(r"[})\]']_|\\[^a-zA-Z]|[*<]|^\s|\s$", formula), formula
    for formula in formulas + re.findall(r"```math\n(.*?)```", page, re.DOTALL):
        assert formula.count("{") == formula.count("}"), formula
        assert formula.count(r"\lVert") == formula.count(r"\rVert"), formula
    lines = prose.splitlines()
    assert not [line for line in lines if re.match(r"\s*(>|\+ |\d+[.)] )", line)]


def test_every_proof_ends(page):
    assert page.count("∎") >= page.count("*Proof.*") > 30


# Numbers that the page quotes, computed here.


def assert_quoted(section, *numbers):
    for number in numbers:
        assert re.search(rf"(?<![\d.]){re.escape(number)}(?!\.?\d)", section), number


def attention_norm(kind, kernels, x, **options):
    """Jacobian norm of attention with one head and the given kernels, and biases where there are any."""
    head_dim = kernels["query"].shape[1]
    mask_bias = options.pop("bias", None)
    biases = options.pop("biases", {})
    layer = attention.MultiHeadAttention(1, kind, head_dim=head_dim, use_bias=bool(biases), **options)
    zeros = {"query": (1, head_dim), "key": (1, head_dim), "value": (1, head_dim), "out": x.shape[1:]}
    params = {}
    for name, kernel in kernels.items():
        shaped = kernel[None] if name == "out" else kernel[:, None]
        params[name] = {"kernel": jnp.asarray(shaped, float)}
        if biases:
            params[name]["bias"] = jnp.asarray(biases.get(name, np.zeros(zeros[name])), float)
    return empirical.jacobian_norm(lambda x: layer.apply({"params": params}, x, bias=mask_bias), x)


def unit_kernels(query, value, out, key=None):
    kernels = {"query": query, "value": value, "out": out, "key": query if key is None else key}
    return {name: np.asarray(kernel, float) for name, kernel in kernels.items()}


def by_bounds(kernels):
    return {
        name: kernel[None] if name == "out" else kernel[:, None] for name, kernel in kernels.items()
    }


def without_key(kernels):
    return {name: kernel for name, kernel in kernels.items() if name != "key"}


SPLIT = unit_kernels([[1], [0]], [[0], [1]], [[1, 0]])  # logits of one coordinate, values of the other


def test_l2_attention_needs_the_fourth_power(sections):
    kernels = without_key(unit_kernels(10 * np.eye(2), np.eye(2), np.eye(2)))
    measured = attention_norm(attention.L2(), kernels, jnp.zeros((2, 2)))
    corrected = bounds.l2_attention(**by_bounds(kernels), num_tokens=2, method="published")
    elsewhere = corrected / 10
    assert elsewhere < measured < corrected
    assert_quoted(sections["3.4"], f"{measured:.1f}", f"{elsewhere:.1f}")


def test_plain_l2_values_have_no_global_constant(sections):
    kernels = without_key(SPLIT)
    published = bounds.l2_attention(**by_bounds(kernels), num_tokens=2, method="published")
    plain = attention.L2(plain_values=True)
    small, large = (attention_norm(plain, kernels, jnp.array([[0.0, 0], [1, t]])) for t in (100, 1000))
    assert_quoted(sections["3.4"], f"{small:.1f}", f"{large:.0f}", f"{published:.2f}")


def test_l2_attention_needs_the_self(sections):
    kernels = without_key(unit_kernels([[1]], [[1]], [[1]]))
    bound = bounds.l2_attention(**by_bounds(kernels), num_tokens=3)
    hidden = jnp.where(jnp.eye(3, dtype=bool), -1e9, 0)
    near, far = (
        attention_norm(attention.L2(), kernels, jnp.array([[0.0], [t], [-t]]), bias=hidden)
        for t in (3, 10)
    )
    seen = attention_norm(attention.L2(), kernels, jnp.array([[0.0], [3], [-3]]))
    assert seen < bound < near
    assert_quoted(sections["4.4"], f"{near:.1f}", f"{far:.0f}", f"{bound:.2f}")


def test_plain_cosine_values_have_no_global_constant(sections):
    options = {"tau": 1.0, "nu": 1.0, "eps": 1.0}
    published = bounds.cosine_attention(**by_bounds(SPLIT), num_tokens=2, **options, method="published")
    plain = attention.Cosine(**options, plain_values=True)
    measured = attention_norm(plain, SPLIT, jnp.array([[0.0, 0], [1, 100]]))
    assert published < measured
    assert_quoted(sections["3.5"], f"{measured:.1f}", f"{published:.0f}")


def test_published_dot_product_knows_no_query_bias(sections):
    kernels = unit_kernels(np.zeros((2, 2)), np.eye(2), np.eye(2), key=np.eye(2))
    bias = np.array([[10 * np.sqrt(2), 0]])
    x = jnp.array([[0.0, 1], [0, -1]])
    measured = attention_norm(attention.DotProduct(), kernels, x, biases={"query": bias})
    arguments = {**by_bounds(kernels), "num_tokens": 2, "radius": 1.0}
    published = bounds.dot_product_attention(**arguments, method="published")
    assert published < measured < bounds.dot_product_attention(**arguments, query_bias=bias)
    assert_quoted(sections["3.3"], f"{measured:.2f}", f"{published:.2f}")


def test_mean_field_constant_fails_under_a_causal_mask(sections):
    kernels = unit_kernels(np.zeros((1, 1)), np.eye(1), np.eye(1))
    norms = [
        attention_norm(attention.DotProduct(), kernels, jnp.zeros((n, 1)), causal=True) for n in (2, 64)
    ]
    assert norms[0] > 1
    assert_quoted(sections["3.6"], *(f"{norm:.3f}" for norm in norms))


def test_sharp_dot_product_is_this_far_below_the_published(sections):
    kernel = np.ones((1, 1, 1))

    @jax.jit
    @jax.vmap
    def ratio(radius, n):
        arguments = {"num_tokens": n, "radius": radius}
        both = (
            bounds.dot_product_attention(kernel, kernel, kernel, kernel, **arguments, method=method)
            for method in ("published", "sharp")
        )
        published, sharp = both
        return published / sharp

    radii = jnp.logspace(-2, 2, 400)
    least = [jnp.min(ratio(radii, jnp.full(400, n))) for n in (2, 3, 4, 16, 1000)]
    assert least == sorted(least)
    assert_quoted(sections["4.1"], f"{least[0]:.2f}", f"{least[1]:.2f}")
    assert ratio(radii, jnp.ones(400)).min() >= np.sqrt(3) - 1e-3


def test_operator_norm_of_max_pooling(sections):
    moved = jnp.linalg.norm(pooling.max_pool(jnp.eye(4)) - pooling.max_pool(jnp.zeros((4, 4))))
    assert moved == bounds.pooling_factor("max", num_tokens=4, dim=4, norm="operator").round(3)
    assert_quoted(sections["3.2"], f"by {moved:.0f}")


def test_bound_at_the_padded_length_fails_for_shorter_sequences(sections):
    model = blocks.TBM(num_heads=1, pooler=pooling.AveragePool())
    x = jnp.zeros((16, 4))
    params = model.init(jax.random.key(0), x)["params"]
    eye, zero = jnp.eye(4), jnp.zeros((4, 4))
    kernels = {"query": zero, "key": zero, "value": eye, "out": eye}
    shaped = {
        name: {"kernel": kernel.reshape(params["attention"][name]["kernel"].shape)}
        for name, kernel in kernels.items()
    }
    variables = {"params": {**params, "attention": shaped, "ffn": {"kernel": zero}}}
    mask = jnp.arange(16) < 1
    measured = empirical.jacobian_norm(lambda x: model.apply(variables, x, mask), x)
    padded = bounds.tbm(model, variables, num_tokens=16, radius=1.0).lipschitz
    ranged = bounds.tbm(model, variables, num_tokens=bounds.TokenRange(1, 16), radius=1.0).lipschitz
    assert padded < measured <= ranged
    assert_quoted(sections["4.8"], f"{measured:.2f}", f"{padded:.2f}")


def test_joint_form_of_peaked_weights(sections):
    parts = {"per_token": jnp.array(2.0), "mixing": jnp.array(1.0), "own": jnp.array(1.0)}
    layer = AttentionBound(sequence=jnp.sqrt(128) + 1, **parts, method="sharp", source="")
    options = {"ffn": 0.0, "dim": 64, "num_tokens": 128, "norm_scale": 63 / 64}
    weights = PoolerBound(l2=0.5, l1=1.0)
    joint = bounds.pooled_block(weights, attention=layer, **options).lipschitz
    separate = bounds.pooled_block(weights, attention=layer.sequence, **options).lipschitz
    assert_quoted(sections["4.6"], f"{joint:.1f}", f"{separate:.1f}")


def test_gaussian_tail(sections):
    size = 75264
    tail = scipy.stats.chi2.sf(1.05**2 * size, size)
    assert_quoted(sections["2.4"], f"{tail:.0e}", f"{1 / 1.05:.2f}")


def groups(sizes, step):
    """L2 attention in its metric of groups of tokens on a line: its weights, mixing and own parts."""
    y = np.repeat(step * np.arange(len(sizes)), sizes)
    apart = y[:, None] - y[None]
    weights = np.exp(-(apart**2))
    weights /= weights.sum(axis=1, keepdims=True)
    moved = y[None] - (weights @ y)[:, None]
    return weights * (1 + 2 * moved * apart), 2 * np.sum(weights * moved**2, axis=1)


def test_what_l2_attention_is_known_to_attain(sections, x64):
    n, text = 16, sections["8.20"]
    w = lambert_w(jnp.asarray((n - 1) / np.e))
    (together,) = rows_together(jnp.asarray(float(n)), None, through_metric=True)
    assert_quoted(text, f"{np.sqrt(n) * (1 + 2 * w):.2f}", f"{together:.2f}", f"{2 * w:.2f}")
    assert_quoted(text, f"{np.linalg.norm(groups((5, 6, 5), 1.6)[0], 2):.2f}")
    assert_quoted(text, f"{groups((7, 1, 8), 1.6)[1].max():.2f}")
    assert_quoted(text, f"{np.linalg.norm(groups((7, 2, 7), 1.4)[1]) / np.sqrt(n):.2f}")
    mixing, own = groups((7, 1, 8), 1.8)
    assert_quoted(text, f"{np.linalg.norm(mixing.sum(axis=0) + own) / np.sqrt(n):.2f}")
    seen = np.linspace(0.01, 1, 1000)
    hub = (n - 1) * seen / (1 + seen + (n - 2) * seen**2) + 1 / (1 + (n - 1) * seen)
    alone = 1 / np.sqrt(n - 1)
    semidefinite = (n - 1) * alone / (1 + alone) + 1 / (1 + (n - 1) * alone)
    assert_quoted(text, f"{hub.max():.2f}", f"{semidefinite:.2f}")


@pytest.mark.usefixtures("x64")
def test_largest_slopes_of_activations(sections):
    slopes = jnp.linspace(1, 3, 200_001)
    for activation in (
        lambda x: nn.gelu(x, approximate=False),
        nn.gelu,
        nn.silu,
        lambda x: x * nn.sigmoid(1.702 * x),
    ):
        at = jax.jit(jax.vmap(jax.grad(activation)))
        assert_quoted(sections["7.3"], f"{at(slopes).max():.6f}")
        np.testing.assert_allclose(at(slopes) + at(-slopes), 1, atol=1e-12)


def test_the_architecture_names_what_is_there(pytestconfig):
    root = pytestconfig.rootpath
    text = (root / "poolax" / "docs" / "architecture.md").read_text()
    named = set(re.findall(r"`(poolax/[\w/.]+)`", text))
    assert len(named) > 30
    assert not [path for path in named if not (root / path).exists()]
    assert "](poolax/docs/architecture.md)" in (root / "README.md").read_text()
    drawn = re.search(r"^poolax/\n(.+?)^experiments/", text, re.MULTILINE | re.DOTALL)
    assert drawn
    packages = {path.parent.name for path in (root / "poolax").glob("*/__init__.py")}
    missing = [name for name in packages if not re.search(rf"(^|[ ,]){name}/", drawn[1], re.MULTILINE)]
    assert not missing
