"""Types of options that may be left out, as the help shows them."""

from typing import Annotated

import tyro

OptionalText = Annotated[str | None, tyro.conf.arg(metavar="TEXT")]
OptionalPath = Annotated[str | None, tyro.conf.arg(metavar="PATH")]
OptionalCount = Annotated[int | None, tyro.conf.arg(metavar="COUNT")]
OptionalNumber = Annotated[float | None, tyro.conf.arg(metavar="NUMBER")]
