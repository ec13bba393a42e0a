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
