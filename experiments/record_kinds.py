"""JSON Schemas of the kinds of records that the scripts declare, beside those of the package."""

import importlib
import pathlib
import re
from typing import Any

from poolax.records import json_schemas

HERE = pathlib.Path(__file__).parent
_DECLARED = re.compile(r'^@record_kind\(\s*"(\w+)"', re.MULTILINE)


def declared() -> dict[str, pathlib.Path]:
    """The kinds that are declared here, each with the file that does."""
    return {
        kind: path
        for path in sorted(HERE.rglob("*.py"))
        for kind in _DECLARED.findall(path.read_text())
    }


def schemas() -> dict[str, dict[str, Any]]:
    """The schema of each of them, as :func:`poolax.records.json_schemas` gives those of the package.

    The scripts are imported, from the folder that this file stands in.
    """
    found = declared()
    for path in dict.fromkeys(found.values()):
        importlib.import_module(".".join(path.relative_to(HERE).with_suffix("").parts))
    of_all = json_schemas()
    return {kind: of_all[kind] for kind in sorted(found)}
