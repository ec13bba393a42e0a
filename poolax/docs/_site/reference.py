"""The reference: a page for each public module, with all public names of it, made from docstrings."""

import ast
import importlib
import json
import pathlib
import re
import sys
import textwrap

from poolax.records import json_schemas

PACKAGE = pathlib.Path(__file__).parents[2]
#: Files below a package whose functions are called by the file's name.
FILES = ("poolax.training.holding", "poolax.training.profile")

_ABOUT_RECORDS = """
Records are JSON lines; what a line is, its field `kind` says. Each kind has a JSON Schema, which
[`records.json_schemas`][poolax.records.json_schemas] gives to programs. A record may hold more than is
named here.
""".strip()
_ABOUT_SCRIPTS = """
# Kinds of experiments

These are declared by the scripts in the folder `experiments`, which are no part of the package:
`record_kinds.schemas()` there gives them.
""".strip()


def public_modules() -> dict[str, list[str]]:
    """Full names of the modules on whose path nothing is private, each with its public names."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        if parts[1] == "docs" or any(part.startswith("_") and part != "__init__" for part in parts):
            continue
        module = ".".join(part for part in parts if part != "__init__")
        source = path.read_text()
        names = defined(source) if module in FILES else public_names(source, module)
        if names:
            found[module] = names
    return found


def public_names(source: str, module: str) -> list[str]:
    """Names that a module exports: those of ``__all__``, or all that are imported as themselves."""
    tree = ast.parse(source)
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    # What is imported from the package itself is a module, with a page of its own.
    aliases = [alias for node in imports if node.module != module for alias in node.names]
    return sorted({alias.name for alias in aliases if alias.name == alias.asname}, key=str.lower)


def defined(source: str) -> list[str]:
    """Names of the functions and classes that a file defines, but for private ones."""
    body = ast.parse(source).body
    found = [node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    return [name for name in found if not name.startswith("_")]


def page_of(module: str) -> str:
    """Where the page of a module stands."""
    name = module.partition(".")[2]
    return f"reference/{name or 'index'}.md"


def pages() -> dict[str, str]:
    """Markdown of all pages, by where they stand."""
    modules = public_modules()
    found = {page_of(module): _page(module, names) for module, names in modules.items()}
    found["reference/index.md"] = _contents(modules)
    found["reference/record_kinds.md"] = _record_kinds()
    return found


def _page(module, names):
    about = [f"# {module}", "", f"::: {module}", "    options:", "      members: false"]
    about += ["      show_root_heading: false", "      show_root_toc_entry: false"]
    blocks = ["\n".join(about), *(f"::: {module}.{name}" for name in names)]
    return "\n\n".join(blocks) + "\n"


def _contents(modules):
    parts = ["# Reference", "All public names, by the module that exports them."]
    for module, names in modules.items():
        page = page_of(module).removeprefix("reference/")
        links = ", ".join(f"[`{name}`][{module}.{name}]" for name in names)
        parts.append(f"## [{module}]({page})\n\n{_summary(module)}\n\n{links}")
    return "\n\n".join(parts) + "\n"


def _record_kinds():
    of_scripts = _of_scripts()
    of_package = {name: one for name, one in json_schemas().items() if name not in of_scripts}
    parts = ["# Kinds of records", _ABOUT_RECORDS, _schemas_text(of_package)]
    parts += [_ABOUT_SCRIPTS, _schemas_text(of_scripts)] if of_scripts else []
    return "\n\n".join(parts) + "\n"


def _of_scripts():
    """Schemas of what the experiments declare; none where the package stands alone."""
    scripts = PACKAGE.parent / "experiments"
    if not (scripts / "record_kinds.py").exists():
        return {}
    sys.path.insert(0, str(scripts))
    try:
        return importlib.import_module("record_kinds").schemas()
    finally:
        sys.path.remove(str(scripts))


def _schemas_text(schemas):
    parts = []
    for name, schema in schemas.items():
        shown = json.dumps(schema, indent=1, ensure_ascii=False)
        about = schema["description"].replace("``", "`")
        parts.append(f'## {name}\n\n{about}\n\n??? note "JSON Schema"\n')
        parts.append(textwrap.indent(f"```json\n{shown}\n```", "    "))
    return "\n\n".join(parts)


def _summary(module):
    path = PACKAGE.parent.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    doc = ast.get_docstring(ast.parse(file.read_text())) or ""
    return re.split(r"(?<=\.)\s|\n\n", doc, maxsplit=1)[0].replace("\n", " ")
