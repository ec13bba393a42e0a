"""``poolax certify``: both radii of a head, at its token states and through its backbone."""

import json

import jax
import numpy as np
import pytest

from poolax import backbones, cli, data, reporting, training
from poolax.backbones import ImagePreprocess, ViT, ViTConfig

CONFIG = ViTConfig(8, 4, 1, width=8, num_layers=1, num_heads=2, mlp_dim=8)


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """A backbone and a head in units of the states' spread, as their directories."""
    folder = tmp_path_factory.mktemp("certify")
    vit = ViT.init(CONFIG, jax.random.key(0), preprocess=ImagePreprocess(scale=1 / 16))
    backbones.save(vit, folder / "vit")
    task = training.Classification(10)
    [row] = training.sweep(
        vit, data.digits(), task, poolers=["avg"], seeds=1, solver="converged", out=folder / "heads"
    )
    return folder / "vit", training.head_directory(folder / "heads", row)


def run(capsys, *arguments):
    code = cli.main(["certify", *map(str, arguments)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_certified_and_attacked_radii_are_printed(head, capsys, tmp_path):
    options = ["--data", "digits", "--num-examples", "3", "--steps", "10", "--json"]
    code, out, err = run(capsys, *head, *options, "--figure", tmp_path / "radii.png")
    assert code == cli.COMPLETE, err
    record = json.loads(out)
    radius, attacked = (np.asarray(record[name]) for name in ("radius", "attacked"))
    right = attacked > 0
    assert right.any()
    assert (radius <= attacked).all()
    # A linear pooler's is exact, in the units of the states whatever the head was trained in.
    assert (attacked[right] <= 1.02 * radius[right]).all()
    assert (tmp_path / "radii.png").stat().st_size > 0
    assert record["pooler"] == "avg"
    table = reporting.certificate_table(record, [0.0])
    assert table.rows[0][1].text == f"{100 * right.mean():.1f}%"


@pytest.mark.slow
@pytest.mark.parametrize("geometry", ["frobenius", "tokens"])
def test_through_the_whole_backbone(head, capsys, geometry):
    options = ["--data", "digits", "--num-examples", "3", "--whole", "--geometry", geometry]
    code, out, err = run(capsys, *head, *options, "--json")
    assert code == cli.COMPLETE, err
    record = json.loads(out)
    radius, attacked = (np.asarray(record[name]) for name in ("radius", "attacked"))
    assert (radius <= attacked).all()
    assert ((radius > 0) == (attacked > 0)).all()
    code, out, err = run(capsys, *head, *options, "--steps", "0", "--epsilons", "0.001")
    assert "through the whole backbone" in out, err


def test_what_is_no_head_is_refused(head, capsys):
    code, _, err = run(capsys, head[0], head[0], "--data", "digits")
    assert code == cli.USAGE
    assert "head: expected the directory of a head, got ViT" in err
    with pytest.raises(ValueError, match="records: expected certificates of one geometry, got no"):
        reporting.plot_certificates([], "radii.png")
