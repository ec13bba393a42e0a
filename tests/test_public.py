"""The package as a whole: what it exports, what it documents, what importing it costs."""

import difflib
import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys

import pytest
import signatures

import poolax

MODULES = (
    "pooling",
    "attention",
    "blocks",
    "bounds",
    "codec",
    "empirical",
    "measure",
    "backbones",
    "data",
    "training",
    "records",
    "statistics",
    "startup",
    "reporting",
    "quickstart",
    "cli",
    "data.series",
    "data.tokens",
    "data.unlabelled",
    "data.vision",
    "training.tasks",
    "training.pretraining",
)


def public(module):
    if hasattr(module, "__all__"):  # a file, which imports what is not its own
        yield from ((name, getattr(module, name)) for name in module.__all__)
        return
    for name, value in vars(module).items():
        home = getattr(value, "__module__", None) or ""
        if not name.startswith("_") and home.startswith("poolax") and not inspect.ismodule(value):
            yield name, value


def public_modules():
    """Modules on whose path nothing is private."""
    for found in pkgutil.walk_packages(poolax.__path__, "poolax."):
        if not re.search(r"\._", found.name):
            yield found


@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_is_documented_and_on_the_page_of_names(name, pytestconfig):
    page = (pytestconfig.rootpath / "poolax" / "docs" / "names.md").read_text()
    names = dict(public(importlib.import_module(f"poolax.{name}")))
    assert names
    for public_name, value in names.items():
        if public_name in ("Kind",):
            continue
        assert inspect.getdoc(value), public_name
        assert re.search(rf"`{public_name}`", page), (
            f"{name}.{public_name} is not in poolax/docs/names.md"
        )


def test_every_public_module_has_a_home(pytestconfig):
    """On the page of names, or, where it is a room that others share, on that of the architecture."""
    docs = pytestconfig.rootpath / "poolax" / "docs"
    listed, architecture = ((docs / name).read_text() for name in ("names.md", "architecture.md"))
    homeless, files = [], []
    for found in public_modules():
        path = found.name.replace(".", "/")
        if f"`{found.name}`" not in listed and f"`{path}" not in architecture:
            homeless.append(found.name)
        if not found.ispkg and found.name.count(".") == 1:
            files.append(found.name)
    assert not homeless
    assert files
    assert [name for name in files if not hasattr(importlib.import_module(name), "__all__")] == []


def test_signatures_of_the_contract():
    kept, found = signatures.GOLDEN.read_text().splitlines(), list(signatures.lines())
    changes = "\n".join(difflib.unified_diff(kept, found, "kept", "found", lineterm="", n=0))
    assert not changes, f"if this is meant, `python tests/signatures.py` keeps it:\n{changes}"


def test_importing_poolax_is_light():
    heavy = (
        "tensorflow",
        "tensorflow_datasets",
        "torch",
        "matplotlib",
        "orbax.checkpoint",
        "sklearn",
        "statsmodels",
        "pandas",
        "pooch",
    )
    program = (
        "import sys, poolax, poolax.data; poolax.bounds; poolax.data.names(); "
        f"print([m for m in {heavy!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    program = "import poolax; poolax.training.sweep; poolax.reporting.score_table; poolax.data.digits"
    subprocess.run([sys.executable, "-c", program], check=True)
    with pytest.raises(AttributeError, match="'poolax' has no attribute 'pool'"):
        _ = poolax.pool


def test_version_and_changelog():
    assert re.search(rf"^## {re.escape(poolax.__version__)}$", changelog(), re.MULTILINE)


def changelog():
    return importlib.resources.files("poolax").joinpath("CHANGELOG.md").read_text()


def test_continuous_integration_runs_the_command_of_the_readme(pytestconfig):
    readme = (pytestconfig.rootpath / "README.md").read_text()
    setup, test = re.findall(r"^(python3 -m venv .*)$", readme, re.MULTILINE)
    assert setup.endswith("&& poolax quickstart")
    command = test.rsplit("&& ", 1)[1]
    assert (pytestconfig.rootpath / ".ci" / "run").read_text().rstrip().endswith(f"\n{command}")


def test_the_snippets_of_the_readme_run(pytestconfig, tmp_path):
    """One for each of three users, one after the other."""
    readme = (pytestconfig.rootpath / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    assert len(blocks) == 3
    assert all(len(block.splitlines()) <= 13 for block in blocks)
    path = os.pathsep.join([str(pytestconfig.rootpath), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks)], capture_output=True, text=True, timeout=300, cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "best constant" in done.stdout  # the sweep ends with a table
    assert "Table(" not in done.stdout


def test_the_readme_is_short_and_its_links_are_there(pytestconfig):
    readme = (pytestconfig.rootpath / "README.md").read_text()
    assert len(readme.split()) < 900
    linked = set(re.findall(r"\]\(([^)#]+)", readme))
    assert len(linked) > 10
    assert not [path for path in linked if not (pytestconfig.rootpath / path).exists()]


def test_only_one_module_knows_pmap_and_one_knows_orbax(pytestconfig):
    for word, home in (("jax.pmap", "training/_devices.py"), ("import orbax", "_checkpoint/_orbax.py")):
        folder = pytestconfig.rootpath / "poolax"
        users = {str(p.relative_to(folder)) for p in folder.rglob("*.py") if word in p.read_text()}
        assert users == {home}


def test_training_stands_on_no_data_and_its_floors_on_those_below(pytestconfig):
    training = pytestconfig.rootpath / "poolax" / "training"
    floors = {"_states": ("_engine", "_sweep"), "_engine": ("_sweep",)}
    wrong = []
    for path in training.rglob("*.py"):
        above = ["poolax.data"]
        above += [f"poolax.training.{name}" for name in floors.get(path.parent.name, ())]
        imported = re.findall(r"^ *(?:from|import) (poolax[\w.]*)", path.read_text(), re.MULTILINE)
        wrong += [(path.name, name) for name in imported if name.startswith(tuple(above))]
    assert not wrong


def test_no_name_hides_a_module():
    hidden = []
    for found in pkgutil.walk_packages(poolax.__path__, "poolax."):
        if found.name == "poolax.__main__":  # importing it runs the program
            continue
        module = importlib.import_module(found.name)
        parent, _, name = found.name.rpartition(".")
        if getattr(sys.modules[parent], name) is not module:
            hidden.append(found.name)
    assert not hidden
