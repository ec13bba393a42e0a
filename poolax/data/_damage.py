"""What is told of a data set's file that is not as its format or its publisher says."""

from etils import epath

from poolax._files import DamagedFileError, damaged

RESTORE = "restore the file from its source"


def damaged_data(where: epath.PathLike, problem: str) -> DamagedFileError:
    """The error for a file of a data set, to be raised.

    Args:
        where: The file, and the line where there is one.
        problem: ``"expected …, got …"``.
    """
    return damaged(where, problem, RESTORE)
