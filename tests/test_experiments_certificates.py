"""experiments/certificates.py, and the tables of its records."""

import importlib
import json
import shutil

import pytest

from poolax import cli


@pytest.fixture(scope="module")
def script(pytestconfig):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(pytestconfig.rootpath / "experiments"))
        yield importlib.import_module("certificates")


def test_tables_of_the_results_are_what_their_records_give(script, pytestconfig, tmp_path):
    results = pytestconfig.rootpath / "experiments" / "results" / "certificates"
    shutil.copy(results / "certificates.jsonl", tmp_path)
    script.main(["--tables-only", "--out", str(tmp_path)])
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {path.name for path in results.iterdir()}
    for name in written:
        assert (tmp_path / name).read_text() == (results / name).read_text()


@pytest.mark.slow
def test_an_average_of_digits(script, tmp_path, capsys):
    """A linear head is certified as far as it can be, in both norms, and measured once."""
    arguments = ["--quick", "--out", str(tmp_path), "--json"]
    script.main(arguments)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["geometry"] for row in rows] == ["frobenius", "tokens"]
    for row in rows:
        assert all(
            attacked is None or certified <= attacked
            for certified, attacked in zip(row["certified"], row["attacked"], strict=True)
        )
    before = (tmp_path / "certificates.jsonl").read_bytes()
    script.main(arguments)
    assert (tmp_path / "certificates.jsonl").read_bytes() == before


def test_what_cannot_be_is_refused(script, tmp_path, capsys):
    assert script.main(["--tables-only", "--out", str(tmp_path)]) == cli.USAGE
    assert capsys.readouterr().err.startswith("certificates: tables_only: expected --out")
    assert script.main(["--models", "head", "body"]) == cli.USAGE
    assert "models: expected one of 'head', 'block'" in capsys.readouterr().err
