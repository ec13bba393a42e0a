"""The pages that teach: what they tell a reader to type runs, in the order in which it stands there."""

import ast
import importlib
import importlib.util
import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest
import real_weights
import tyro

from poolax import cli
from poolax.cli._main import COMMANDS

DOCS = pathlib.Path(__file__).parents[1] / "poolax" / "docs"
# Their programs take a while to compile.
SLOW = ("certificates", "own_model")
HOW_TO = [
    pytest.param(page, id=page.stem, marks=[pytest.mark.slow] if page.stem in SLOW else [])
    for page in sorted((DOCS / "how_to").glob("*.md"))
    if "```python\n" in page.read_text()
]
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# What a block begins with that asks for more than there is: one word is a module, more are said to readers.
_REQUIRES = re.compile(r"# requires (.+)\n")


def blocks(page):
    """Language and text of the blocks of a page, but for those that ask for what is not here."""
    for language, text in _BLOCK.findall(page.read_text()):
        asked = _REQUIRES.match(text)
        if asked is None or (asked[1].isidentifier() and importlib.util.find_spec(asked[1])):
            yield language, text


def run_shell(text, folder, exported):
    """What a block of shell prints; what it exports is added to ``exported``."""
    root, scripts = str(DOCS.parents[1]), str(pathlib.Path(sys.executable).parent)
    env = os.environ | exported
    env |= {"PYTHONPATH": os.pathsep.join([root, env.get("PYTHONPATH", "")])}
    env |= {"PATH": os.pathsep.join([scripts, env["PATH"]])}
    program = f"set -euo pipefail\n{text}\nenv -0 > exported"
    done = subprocess.run(
        ["bash", "-c", program], cwd=folder, env=env, capture_output=True, text=True, timeout=550
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    after = dict(line.split("=", 1) for line in (folder / "exported").read_text().split("\0") if line)
    exported |= {name: value for name, value in after.items() if env.get(name) != value}
    return done.stdout


def test_blocks_are_found_and_left_out(tmp_path):
    page = tmp_path / "page.md"
    parts = ["# requires numpy\na", "# requires no_such_module\nb", "# requires a network\nc", "d"]
    page.write_text("".join(f"```python\n{part}\n```\n\n" for part in parts) + "```text\ne\n```\n")
    found = [("python", "# requires numpy\na\n"), ("python", "d\n"), ("text", "e\n")]
    assert list(blocks(page)) == found


@pytest.mark.parametrize("page", HOW_TO)
def test_the_python_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    program = "\n".join(text for language, text in blocks(page) if language == "python")
    assert program
    exec(compile(program, str(page), "exec"), {"__name__": page.stem})


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_tutorial_runs(tmp_path, monkeypatch):
    """Shell and Python in turns, by real weights where there are any, else by those that it makes."""
    monkeypatch.chdir(tmp_path)
    exported, session, printed = {}, {"__name__": "tutorial"}, ""
    try:
        exported["MODEL"] = str(real_weights.weights_folder("minilm"))
    except real_weights.NotInstalledError:
        exported = {}
    page = DOCS / "tutorial.md"
    for language, text in blocks(page):
        if language == "python":
            exec(compile(text, str(page), "exec"), session)
        elif language == "sh":
            printed += run_shell(text, tmp_path, exported)
    assert "Take " in printed
    assert {"python", "sh"} == {language for language, _ in blocks(page)}
    assert (tmp_path / "head.jax").stat().st_size > 1000


def typed_lines():
    """What README, the experiments' README and the pages tell to type, each once, with its words."""
    pages = [DOCS.parents[1] / "README.md", DOCS.parents[1] / "experiments" / "README.md"]
    found = {}
    for page in [*pages, *sorted(DOCS.rglob("*.md"))]:
        for _, text in _BLOCK.findall(page.read_text()):
            for line in text.replace("\\\n", " ").splitlines():
                if re.match(r"poolax |python experiments/", line.strip()):
                    command = re.split(r" [|>] | && ", line.strip())[0]
                    found.setdefault(command, shlex.split(command, comments=True))
    return found.values()


class _Parsed(BaseException):
    """A command line could be read; nothing is run."""


def _last_words(path):
    """What a script does where it is run, as code."""
    tree = ast.parse(path.read_text())
    ran = "__name__ == '__main__'"
    blocks = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == ran]
    return compile(ast.Module(blocks[-1].body, []), str(path), "exec")


@pytest.mark.slow
def test_what_pages_tell_to_type_can_be_parsed(monkeypatch, capsys):
    """Arguments alone: what they name need not be there, and nothing is run."""
    scripts = DOCS.parents[1] / "experiments"
    monkeypatch.syspath_prepend(str(scripts))
    parse = tyro.cli

    def parsed(*arguments, **options):
        raise _Parsed(parse(*arguments, **options))

    def run(command):
        raise _Parsed(command)

    def follow(words):
        if words[0] == "poolax":
            return cli.main(words[1:])
        path = DOCS.parents[1] / words[1]
        module = importlib.import_module(".".join(path.relative_to(scripts).with_suffix("").parts))
        with monkeypatch.context() as patch:
            patch.setattr(tyro, "cli", parsed)
            patch.setattr(sys, "argv", words[1:])
            return exec(_last_words(path), vars(module))

    for command in COMMANDS.values():
        monkeypatch.setattr(command, "run", run)
    # These print what shells read, and that one takes no options.
    lines = [words for words in typed_lines() if not words[1].startswith("--tyro-")]
    lines = [words for words in lines if not words[1].endswith("/reload_head.py")]
    assert len(lines) > 80
    for words in lines:
        try:
            code = follow(words)
        except _Parsed:
            continue
        except SystemExit as stop:
            code = stop.code
        pytest.fail(f"{words}: {code}, {capsys.readouterr().err}")


def messages_of(tree):
    """All texts of a module, those put together at run time with … where something is put in."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            parts = (part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
            yield "".join(map(str, parts))


def test_errors_of_the_faq_are_raised_by_the_package():
    page = (DOCS / "faq.md").read_text()
    ours = page.split("## Errors of JAX")[0]
    quoted = re.findall(r"^### `(.+: expected .+)`$", ours, re.MULTILINE)
    assert len(quoted) > 20
    raised = set()
    for path in DOCS.parent.rglob("*.py"):
        raised.update(messages_of(ast.parse(path.read_text())))
    # One placeholder beside another is one to a reader.
    raised = {re.sub("…+", "…", text) for text in raised}
    assert not [text for text in quoted if re.sub("…+", "…", text) not in raised]
    assert all(
        re.match(r"\n\n\S", after) for after in re.split(r"^### .+", page, flags=re.MULTILINE)[1:]
    )
