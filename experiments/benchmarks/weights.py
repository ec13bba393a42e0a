"""Where the real weights are that ``tests/real_weights.py`` makes folders of."""

import pathlib
import runpy

_SCRIPT = pathlib.Path(__file__).parents[2] / "tests" / "real_weights.py"


class MissingError(RuntimeError):
    """Weights or data that a case needs are not there; the message says how to get them."""


def folder(name: str) -> pathlib.Path:
    """Folder of ``"minilm"``, ``"smollm2"`` or ``"dinov2"``; made first if it is not there.

    Raises:
        MissingError: if a package is not installed.
    """
    names = runpy.run_path(str(_SCRIPT))
    try:
        return names["weights_folder"](name)
    except names["NotInstalledError"] as error:
        raise MissingError(str(error)) from None
