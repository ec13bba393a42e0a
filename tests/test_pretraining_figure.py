import pytest
from PIL import Image

from poolax import reporting

ROWS = [
    {"kind": "pretraining", "step": 0, "tokens": 0, "loss": None, "evaluation_loss": 3.0},
    {"kind": "pretraining", "step": 2, "tokens": 8, "loss": 2.5, "evaluation_loss": None},
    {"kind": "pretraining", "step": 4, "tokens": 16, "loss": 2.0, "evaluation_loss": 2.2},
]


def test_curves_of_runs_stand_side_by_side(tmp_path):
    path = tmp_path / "curves.png"
    reporting.plot_pretraining({"dot": ROWS, "L2": ROWS[1:]}, path, against="tokens")
    with Image.open(path) as image:
        assert len(image.convert("RGB").getcolors(2**16)) > 20
    with pytest.raises(ValueError, match=r"runs: expected losses among the records of 'L2', got none"):
        reporting.plot_pretraining({"L2": []}, path)
    with pytest.raises(ValueError, match=r"against: expected 'step' or 'tokens', got 'time'"):
        reporting.plot_pretraining({"dot": ROWS}, path, against="time")


def row_at(step, measured, tight):
    """A record of a step with norms; one of its local bounds is the larger."""
    lipschitz = {"measured": [measured / 2, measured], "log10_local": [0.5, 1.5], "log10_tight": tight}
    return {"step": step, "tokens": 8 * step, "observed": {"lipschitz": lipschitz}}


def test_norms_and_bounds_over_training_are_drawn(tmp_path):
    """Bounds may be beyond the range of numbers, norms zero; records without norms are passed over."""
    path = tmp_path / "norms.png"
    rows = [row_at(4, 3.0, 400.0), {"step": 2, "tokens": 16, "loss": 1.0}, row_at(0, 0.0, 2.0)]
    reporting.plot_training_lipschitz({"dot": rows, "L2": rows[:1]}, path)
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="runs: expected norms observed of 'L2', got none"):
        reporting.plot_training_lipschitz({"L2": rows[1:2]}, path)


def test_losses_are_drawn_by_size(tmp_path):
    path = tmp_path / "sizes.png"
    runs = [
        {"num_parameters": size, "evaluation_loss": loss}
        for size, loss in ((1000, 3.0), (1000, 3.2), (4000, 2.0), (9000, None))
    ]
    reporting.plot_losses_by_size({"dot": runs, "L2": runs[:1]}, path)
    with Image.open(path) as image:
        assert len(image.convert("RGB").getcolors(2**16)) > 20
    with pytest.raises(ValueError, match="models: expected losses among the records of 'L2', got none"):
        reporting.plot_losses_by_size({"L2": runs[3:]}, path)
