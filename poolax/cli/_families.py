"""``poolax models``."""

import dataclasses
from typing import Annotated, ClassVar

import tyro

from poolax import backbones
from poolax.cli._console import COMPLETE, show
from poolax.reporting import Cell, Table

_INPUTS = {"vision": "images", "language": "texts", "series": "series"}


@dataclasses.dataclass(frozen=True)
class Models:
    """List the families of pretrained backbones, and what the tests compare each with.

    A checkpoint is a folder in Hugging Face layout or a hub id, whose config.json names its kind as
    model_type. Its family is the class in poolax.backbones that backbones.load gives.

    Attributes:
        as_json: Print JSON lines, a record for each family, instead of the table.
        debug: Show where an error comes from.
    """

    resumable: ClassVar[bool] = False

    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    debug: bool = False

    def run(self) -> int:
        """Run the command and give its exit code."""
        records = [{"kind": "family", **dataclasses.asdict(one)} for one in backbones.families()]
        show([families_table()], records, as_json=self.as_json)
        return COMPLETE


def families_table() -> Table:
    """The table of families, which README has as well."""
    rows = [
        [
            Cell(family.name),
            Cell(_INPUTS[family.modality]),
            Cell(", ".join(family.checkpoints)),
            Cell(", ".join(family.tested)),
        ]
        for family in backbones.families()
    ]
    columns = ["family", "reads", "checkpoints", "tested against"]
    return Table("Pretrained backbones", columns, rows, notes=[], tidy=[])
