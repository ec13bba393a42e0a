import json
import os
import re
import subprocess
import sys

import filelock
import pytest

from poolax import cli
from poolax._files import damaged
from poolax.backbones.pretrained._families import ARCHITECTURES
from poolax.cli import _bounds
from poolax.cli._families import families_table
from poolax.cli._main import COMMANDS
from poolax.training import Choice, Records

SMALL = [
    "--seeds=2", "--epochs=2", "--pretrain-epochs=2", "--block-epochs=1", "--num-inputs=4",
    "--search-restarts=2", "--search-steps=3", "--converged-epochs=1", "--learning-rates", "0.001",
]  # fmt: skip
FILES = {
    "records.jsonl", "backbone", "pretraining", "heads", "blocks", ".poolax.lock",
    *(f"{name}.{ending}" for name in ("scores", "sensitivity") for ending in ("md", "csv", "tex")),
    *(f"{name}.{ending}" for name in ("scores", "sensitivity", "noise_curves")
      for ending in ("png", "pdf", "svg")),
}  # fmt: skip


def run(*arguments, xla_flags=""):
    command = [sys.executable, "-m", "poolax", *map(str, arguments)]
    clean = {name: value for name, value in os.environ.items() if name != "PJRT_NPROC"}
    return subprocess.run(
        command,
        env=clean | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": xla_flags},
        capture_output=True,
        text=True,
        timeout=580,
    )


@pytest.fixture(scope="session")
def finished(tmp_path_factory, worker_id):
    """A reduced run, which takes minutes of compilation: one for all of pytest's workers."""
    folder = tmp_path_factory.mktemp("quickstart")
    if worker_id != "master":
        folder = folder.parent.parent / "quickstart"
        folder.mkdir(exist_ok=True)
    ended = folder / "ended.json"
    with filelock.FileLock(folder / "lock"):
        if not ended.exists():
            arguments = ("quickstart", "--out", folder / "run", "--devices", 2, *SMALL)
            done = run(*arguments, xla_flags=os.environ["XLA_FLAGS"])
            ended.write_text(json.dumps([done.returncode, done.stdout, done.stderr]))
    code, stdout, stderr = json.loads(ended.read_text())
    return subprocess.CompletedProcess([], code, stdout, stderr), folder / "run"


def test_quickstart_end_to_end(finished):
    done, out = finished
    assert done.returncode == 0, done.stderr
    assert {path.name for path in out.iterdir()} == FILES
    for name in ("last", "avg", "sum", "max", "wavg", "attn", "dot", "l2", "cosine"):
        assert name in done.stdout
    assert "CLS token was not trained" in done.stdout
    records = Records.read(out / "records.jsonl")
    heads = records.where(kind="head")
    assert len(heads) == 36 + 20
    # Solved heads are one for all seeds; the pooler that takes longest is trained to the end once.
    converged = [row["pooler"] for row in heads if "solver" in row]
    assert [converged.count(name) for name in ("last", "avg", "sum", "max")] == [3] * 4
    assert [converged.count(name) for name in ("wavg", "attn")] == [6, 2]
    scores = (out / "scores.md").read_text()
    assert (
        "| pooler | Adam, validation | Adam, test | Adam, difference | converged, validation |"
        in scores
    )
    assert scores.count("| majority class |") == 1
    assert "95 % interval of the mean difference" in scores
    assert {row["task"] for row in heads} == {"classification", "inpainting", "segmentation"}
    assert len(records.where(kind="noise_curve")) == 6
    blocks = records.where(kind="lipschitz")
    assert len(blocks) == 18
    for row in blocks:
        measured = max(row["measured_real"], row["measured_adversarial"])
        bounded = [row[name] for name in ("tight", "sharp", "published") if row[name] is not None]
        assert row["measured_real"] <= row["local"] * (1 + 1e-4)
        assert row["local"] <= row["local_around"] * (1 + 1e-4)
        assert row["tight"] is not None
        assert sorted([measured, *bounded]) == [measured, *bounded]
        assert (row["num_tokens"], row["width"]) == (16, 64)
        assert row["sharp"] is not None
        assert (row["published"] is None) == (row["pooler"] in ("attn", "wavg"))
    for row in records.where(kind="noise_curve"):
        assert row["mean"][0] < 1e-4
        assert row["mean"] == sorted(row["mean"])


@pytest.mark.slow
@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)])
def test_help_without_colours(command, monkeypatch, capsys):
    assert colours_of([*command, "--help"], monkeypatch, capsys)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not colours_of([*command, "--help"], monkeypatch, capsys)


def test_a_table_without_colours(monkeypatch, capsys):
    """Letters may be bold."""
    styles = colours_of(["models"], monkeypatch, capsys)
    monkeypatch.setenv("NO_COLOR", "1")
    assert set(colours_of(["models"], monkeypatch, capsys)) <= {"\x1b[0m", "\x1b[1m", "\x1b[3m"}
    assert styles


def colours_of(arguments, monkeypatch, capsys):
    """Codes of colours and styles in what a command prints to a terminal."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    assert cli.main(arguments) == cli.COMPLETE
    printed = capsys.readouterr().out
    assert printed
    return re.findall(r"\x1b\[[\d;]*m", printed)


def test_a_second_run_does_nothing_again_and_prints_json(finished):
    _, out = finished
    before = (out / "records.jsonl").read_bytes()
    done = run("quickstart", "--out", out, "--json", *SMALL)
    assert done.returncode == 0, done.stderr
    assert (out / "records.jsonl").read_bytes() == before
    summary = json.loads(done.stdout)
    assert len(summary["scores"]) == 18 + 16
    assert len(summary["sensitivity"]) == 18
    assert summary["cls_token_trained"] is False


def test_a_run_with_other_settings_is_refused(finished):
    _, out = finished
    done = run("quickstart", "--out", out, *SMALL, "--seed", 5)
    assert done.returncode == cli.USAGE
    assert re.fullmatch(
        r"poolax: out: expected a checkpoint with this configuration .* seed\n", last_line(done)
    )


@pytest.mark.parametrize("command", ["bounds", "lipschitz"])
def test_commands_read_what_the_quickstart_wrote(finished, command, capsys):
    """A result, or one line that says what was expected in place of what stands there."""
    _, out = finished
    heads = out / "heads" / "classification"
    of_a_head = sorted(heads.glob("*/lr-0.001-seed-0-*"))
    readable = [
        out / "backbone",
        out / "blocks" / "l2-avg",
        *(of_a_head if command == "bounds" else ()),
    ]
    refused = [heads, heads / "avg", out / "pretraining", *(() if command == "bounds" else of_a_head)]
    assert len(of_a_head) == 6
    flags = ["--num-tokens", "4"] if command == "bounds" else ["--num-inputs", "1"]
    for path in readable + refused:
        code = cli.main([command, str(path), *flags, "--json"])
        printed = capsys.readouterr()
        assert code == (cli.COMPLETE if path in readable else cli.USAGE), (path, printed.err)
        if path in refused:
            assert re.fullmatch(r"poolax: \w+: expected .*, got .*\n", printed.err)
        else:
            assert printed.out


def last_line(done):
    return done.stderr.splitlines(keepends=True)[-1]


BOUNDS = ["bounds", "--dim", "4", "--num-heads", "2", "--num-tokens", "2", "--poolers", "sum", "--json"]
COMMANDS = [["--version"], ["--help"], ["data", "list"], ["data", "list", "--json"], BOUNDS]


@pytest.mark.parametrize(
    ("arguments", "unbuffered"),
    [
        *((arguments, "") for arguments in COMMANDS),
        (["data", "list"], "1"),
        *(
            pytest.param(arguments, "1", marks=pytest.mark.slow)
            for arguments in COMMANDS
            if arguments != ["data", "list"]
        ),
    ],
)
def test_nobody_reads_on(arguments, unbuffered):
    """As behind ``| head``: no word of it, and Python's exit code for a broken pipe."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "poolax", *arguments],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONUNBUFFERED": unbuffered},
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        timeout=300,
    )
    os.close(writer)
    assert done.returncode == 1
    assert not re.search(r"poolax:|Errno|Exception|Traceback", done.stderr)


def test_another_broken_pipe_is_told(monkeypatch, capfd):
    def lose_connection(self):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(_bounds.Bounds, "run", lose_connection)
    assert cli.main(["bounds"]) == cli.FAILURE
    assert capfd.readouterr().err == "poolax: [Errno 32] Broken pipe\n"


OF_A_QUICKSTART = re.compile(r"```python\n(# requires a finished quickstart.*?)```", re.DOTALL)


def test_the_page_of_checkpoints_reloads_a_head_on_another_device_count(finished, pytestconfig):
    """Both snippets of the page, with the folders of this run, on one device and on eight."""
    _, out = finished
    page = pytestconfig.rootpath / "poolax" / "docs" / "how_to" / "checkpoints.md"
    snippets = OF_A_QUICKSTART.findall(page.read_text())
    assert len(snippets) == 2
    head = next((out / "heads" / "classification" / "avg").glob("*-seed-0-*"))
    check = "import jax\nassert jax.device_count() == {count}\n"
    check += "assert head.{get}['params']['output']['kernel'].shape == (64, 10)\n"
    for count in (1, 8):
        for snippet, get in zip(snippets, ("state", "variables"), strict=True):
            comment, *lines = snippet.strip().splitlines()
            assert comment.startswith("#")
            assert len(lines) <= 3
            program, count_of_paths = re.subn(r'"[^"]*/heads/[^"]*"', repr(str(head)), snippet)
            assert count_of_paths == 1
            program = program.replace('"poolax-quickstart/backbone"', repr(str(out / "backbone")))
            program = f"import jax\njax.config.update('jax_num_cpu_devices', {count})\n" + program
            done = subprocess.run(
                [sys.executable, "-c", program + check.format(count=count, get=get)],
                env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
                capture_output=True,
                text=True,
                timeout=300,
            )
            assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["quickstart", "--seeds", "many"], r"poolax: Error parsing --seeds: .*'many'"),
        (["quickstart", "--bogus"], r"poolax: Unrecognized options: --bogus"),
        (["dance"], r"poolax: .*dance.*"),
        ([], r"poolax: .*quickstart.*"),
        (["quickstart", "--seeds", "0"], r"poolax: seeds: expected a whole number >= 1, got 0"),
        (["quickstart", "--num-inputs", "1"], r"poolax: num_inputs: .* >= 2, got 1"),
        (["quickstart", "--learning-rates", "-1"], r"poolax: learning_rates: .*> 0, got -1"),
        (
            ["quickstart", "--out", "/dev/null/x"],
            r"poolax: out: expected a folder that can be written, got /dev/null/x \(Not a directory\)",
        ),
    ],
)
def test_usage_errors_take_one_line_and_exit_with_two(
    arguments, message, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == cli.USAGE
    assert re.fullmatch(message + r"\n", capsys.readouterr().err)


def test_other_endings(capsys, monkeypatch, tmp_path):
    from poolax import quickstart

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    def broken(*_, **__):
        raise RuntimeError("a measured constant exceeds\nits bound")

    def raising(error):
        def replacement(*_, **__):
            raise error

        return replacement

    for replacement, code, message in (
        (
            raising(damaged("a.json", "expected JSON,\ngot\x1b[1m" + "{" * 9_000, "remove it")),
            cli.FAILURE,
            "poolax: a.json: expected JSON, got\\x1b[1m" + "{" * 473 + " …; remove it\n",
        ),
        (
            raising(OSError(28, "No space left on device", "/tmp/run")),
            cli.FAILURE,
            "poolax: /tmp/run: No space left on device\n",
        ),
        (raising(ValueError("x" * 9_000)), cli.USAGE, "poolax: " + "x" * 998 + " …\n"),
        (
            interrupted,
            cli.INTERRUPTED,
            "poolax: interrupted; the same command goes on from what is finished\n",
        ),
        (broken, cli.FAILURE, "poolax: a measured constant exceeds its bound\n"),
    ):
        monkeypatch.setattr(quickstart, "run", replacement)
        assert cli.main(["quickstart", "--out", str(tmp_path)]) == code
        assert capsys.readouterr().err.endswith(message)


def test_help_and_version(capsys):
    assert cli.main(["--version"]) == cli.COMPLETE
    assert re.fullmatch(r"poolax \d+\.\d+\.\d+\n", capsys.readouterr().out)
    assert cli.main(["advise", "--version"]) == cli.COMPLETE
    assert capsys.readouterr().out.startswith("poolax ")
    assert cli.main(["quickstart", "--help"]) == cli.COMPLETE
    text = capsys.readouterr().out
    for option in ("--out", "--seeds", "--json", "--devices", "--profile", "--compilation-cache"):
        assert option in text


def test_quiet_leaves_out_progress_alone(capsys):
    assert cli.main(BOUNDS) == cli.COMPLETE
    loud = capsys.readouterr()
    assert "bounds" in loud.err
    assert cli.main([*BOUNDS, "--quiet"]) == cli.COMPLETE
    quiet = capsys.readouterr()
    assert quiet.err == ""
    assert quiet.out == loud.out
    assert cli.main(["bounds", "--num-tokens", "0", "--quiet"]) == cli.USAGE
    assert "num_tokens" in capsys.readouterr().err


def test_diverged_heads_end_with_code_three(finished, monkeypatch, capsys):
    """The records of a real run, with one head marked as diverged."""
    from poolax import quickstart
    from poolax.reporting import score_tables, sensitivity_table

    _, out = finished
    records = Records.read(out / "records.jsonl")
    heads = list(records.where(kind="head", task="classification"))
    blocks = list(records.where(kind="lipschitz"))
    heads[0] = {**heads[0], "diverged": True}
    report = quickstart.Report(
        records=Records([*heads, *blocks]),
        scores=score_tables(heads),
        sensitivity=sensitivity_table(blocks),
        cls_token_trained=True,
        example_head=out,
        advice=Choice("last", None, "last", False, {}, ("last",)),
    )
    monkeypatch.setattr(quickstart, "run", lambda *_, **__: report)
    assert cli.main(["quickstart", "--out", str(out)]) == cli.DIVERGED
    text = capsys.readouterr().out
    assert "Complete with 1 diverged heads." in text
    assert re.search(r"Warning \(Adam\): last: diverged \(1 of\s2 heads\)\.", text)
    assert "CLS token was trained." in text


@pytest.mark.slow
def test_quickstart_at_full_size(tmp_path):
    """The paper's first claim: the sum moves most under noise, the average least."""
    done = run("quickstart", "--out", tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    records = Records.read(tmp_path / "records.jsonl")
    curves = {row["pooler"]: row["mean"] for row in records.where(kind="noise_curve")}
    for at in range(1, 7):
        moved = {name: mean[at] for name, mean in curves.items()}
        assert max(moved, key=moved.get) == "sum"
        assert min(moved, key=moved.get) == "avg"
    scores = json.loads(done.stdout)["scores"]
    classes = [row for row in scores if row["task"] == "classification"]
    assert min(row["mean"] for row in classes if row["protocol"] == "converged") > 0.7
    converged = {(row["task"], row["pooler"]): row["mean"] for row in scores if row["is_solved"]}
    for task in ("classification", "inpainting", "segmentation"):
        assert abs(converged[task, "avg"] - converged[task, "sum"]) < 1e-3
    for row in scores:
        if row["pooler"] == "sum":  # whose scale grows with the tokens, and its error with it
            continue
        sign = 1 if row["higher_is_better"] else -1
        assert sign * row["mean"] > sign * row["baseline"], (row["task"], row["pooler"])


def test_models_are_listed_as_on_the_pages(pytestconfig, capsys):
    lines = families_table().markdown().splitlines()[2:]
    for page in ("README.md", "poolax/docs/models.md"):
        assert "\n".join(lines).strip() in (pytestconfig.rootpath / page).read_text()
    assert cli.main(["models"]) == 0
    shown = capsys.readouterr().out
    assert cli.main(["models", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    known = [name for architecture in ARCHITECTURES for name in architecture.names]
    assert [name for row in rows for name in row["checkpoints"]] == known
    assert all(name in shown for name in known)
