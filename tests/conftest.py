"""Four simulated devices and strict settings, before JAX is used for the first time."""

import os
import pathlib
from collections.abc import Callable, Iterable
from importlib.metadata import version

# More threads than a test has batched SVDs at once: each waits in XLA's thread pool for others.
os.environ["PJRT_NPROC"] = "32"
# Threads of LAPACK wait for each other without sleeping: on busy cores small matrices take 60 times as
# long with two as with one.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Most of a test's time is compilation, which these shorten; what programs compute stays the same.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_cpu_collective_call_terminate_timeout_seconds=60"
    " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    # The older generator of code halves the rest. Later versions end a process that asks for it.
    + (" --xla_cpu_use_fusion_emitters=false" if version("jaxlib").startswith("0.10.") else ""),
)

import hypothesis
import jax
import pytest
from jaxtyping import install_import_hook

if os.environ.get("POOLAX_CHECK_SHAPES"):
    # Before anything of poolax is imported, and in every worker.
    install_import_hook("poolax", "shapes.checked")

from poolax._memory import give_back_memory, keep_programs_few

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 4)

hypothesis.settings.register_profile("poolax", deadline=None, derandomize=True, max_examples=12)
hypothesis.settings.load_profile("poolax")


_ATTACK = "attack"


@pytest.fixture(scope="module", autouse=True)
def forget_programs_of_a_module():
    """Drops compiled programs, and gives back the gigabytes that compiling them took."""
    yield
    jax.clear_caches()
    give_back_memory()


@pytest.fixture(autouse=True)
def keep_mappings_few():
    yield
    keep_programs_few()


@pytest.fixture
def x64():
    """Double precision for one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def test_data():
    """Folder of real samples, or a skip that says where it was looked for."""
    default = pathlib.Path(__file__).parents[2] / "shared" / "data"
    folder = pathlib.Path(os.environ.get("POOLAX_TEST_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no test data in {folder}; set POOLAX_TEST_DATA")
    return folder


@pytest.fixture(scope="session")
def bert(tmp_path_factory):
    """A small BERT with a tokenizer of words."""
    import tokenizers

    from poolax import backbones
    from poolax.backbones import TextPreprocess

    vocabulary = {"[CLS]": 0, "[SEP]": 1, "[UNK]": 2, "the": 3, "of": 4, "is": 5}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    prepare = TextPreprocess(words.to_str(), 12, prefix=("[CLS]",), suffix=("[SEP]",))
    config = backbones.BertConfig(6, 12, width=8, num_layers=2, num_heads=2, mlp_dim=16)
    folder = tmp_path_factory.mktemp("bert") / "model"
    backbones.save(backbones.Bert.init(config, jax.random.key(0), prepare), folder)
    return folder


@pytest.fixture
def attack(record_property) -> Callable[[str, Iterable[str | None]], None]:
    """Counts an attack: ``attack(name, outcomes)``, an outcome being None or what went wrong."""

    def report(name, outcomes):
        outcomes = list(outcomes)
        broken = [outcome for outcome in outcomes if outcome is not None]
        record_property(_ATTACK, [name, len(outcomes), len(outcomes) - len(broken)])
        assert outcomes, f"{name}: tried nothing"
        first = "\n".join(broken[:5])
        assert not broken, f"{name}: {len(broken)} of {len(outcomes)} did not hold, first:\n{first}"

    return report


def pytest_addoption(parser):
    parser.addoption("--one-of-each", action="store_true", help="the first case alone of every test")


# Behind the choice by marks: a first case that is slow is not the one.
@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    if not config.getoption("one_of_each"):
        return
    first = {item.nodeid.partition("[")[0]: item for item in reversed(items)}
    kept = [item for item in items if first[item.nodeid.partition("[")[0]] is item]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


def pytest_terminal_summary(terminalreporter):
    """A table attack / tried / held after the tests."""
    rows = [
        value
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", None) == "call"
        for name, value in report.user_properties
        if name == _ATTACK
    ]
    if not rows:
        return
    terminalreporter.section("attacks")
    width = max(len(name) for name, _, _ in rows)
    terminalreporter.write_line(f"{'attack':<{width}}  tried   held")
    for name, tried, held in sorted(rows):
        terminalreporter.write_line(f"{name:<{width}}  {tried:>5}  {held:>5}")
