"""Who imports what: private names stay with the part that they belong to."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]


def imported(source):
    """Full names that a module imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def private_ones(source, package):
    """Imports of private names that are not for this package.

    A name with an underscore is for the part that it stands in: ``poolax._x`` for all of poolax, what is
    below ``poolax.bounds`` for ``poolax.bounds``, and ``comparison._x`` for ``comparison``.
    """
    parts = package.split(".")
    for name in imported(source):
        names = name.split(".")
        if names[0] not in ("poolax", "comparison", "benchmarks"):
            continue
        private = [place for place, part in enumerate(names) if part[0] == "_" and part[:2] != "__"]
        # Below a part, its packages are of one house.
        if private and parts[: min(private[0], 2)] != names[: min(private[0], 2)]:
            yield name


@pytest.mark.parametrize("folder", ["poolax", "experiments"])
def test_no_private_name_is_imported_across_packages(folder):
    files = sorted((ROOT / folder).rglob("*.py"))
    assert len(files) > 20
    found = {}
    for path in files:
        start = ROOT if folder == "poolax" else ROOT / folder
        package = ".".join(path.relative_to(start).parts[:-1])
        wrong = list(private_ones(path.read_text(), package))
        if wrong:
            found[str(path.relative_to(ROOT))] = wrong
    assert not found


@pytest.mark.parametrize(
    ("package", "name", "is_wrong"),
    [
        ("poolax.training", "poolax._paths.absolute_path", False),
        ("poolax.training._sweep", "poolax.training._engine.heads.Head", False),
        ("poolax.backbones", "poolax.backbones.pretrained._load.load", False),
        ("poolax.training", "poolax.bounds._pooler_rules.rule_of", True),
        ("poolax.training", "poolax.bounds.tbm", False),
        ("poolax", "poolax.bounds._pooler_rules.rule_of", True),
        ("comparison", "comparison._run.main", False),
        ("comparison", "poolax._paths.write_atomically", True),
        ("", "poolax._paths.write_atomically", True),
        ("", "comparison._run.main", True),
        ("", "comparison.main", False),
        ("poolax.training", "poolax.bounds.__doc__", False),
    ],
)
def test_what_is_private_to_whom(package, name, is_wrong):
    module, _, last = name.rpartition(".")
    for source in (f"from {module} import {last}", f"def f():\n    import {name}"):
        assert list(private_ones(source, package)) == ([name] if is_wrong else [])


# What all parts share, poolax._x, is below them.
FLOORS = (
    ("codec", "records", "startup"),
    ("statistics", "pooling", "attention"),
    ("blocks",),
    ("bounds", "empirical", "backbones"),
    ("measure", "data", "training"),
    ("reporting",),
    ("quickstart",),
    ("cli",),
    ("docs",),
)


def test_parts_import_from_floors_below_alone():
    floor_of = {part: floor for floor, parts in enumerate(FLOORS) for part in parts}
    seen, wrong = set(), []
    for path in (ROOT / "poolax").rglob("*.py"):
        part = path.relative_to(ROOT / "poolax").parts[0].removesuffix(".py")
        if part in ("__init__", "__main__"):
            continue
        seen.add(part)
        own = -1 if part.startswith("_") else floor_of[part]
        names = (name.split(".") for name in imported(path.read_text()))
        others = {name[1] for name in names if name[0] == "poolax" and len(name) > 1} & set(floor_of)
        wrong += [(part, other) for other in others - {part} if floor_of[other] >= own]
    assert seen >= set(floor_of)
    assert not wrong
