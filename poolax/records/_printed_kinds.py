"""The kinds of records that commands print and write to no file."""

from typing import Any, NotRequired, TypedDict

from poolax.records._former import with_attention_names
from poolax.records._schemas import record_kind


@record_kind("lipschitz_at_inputs", renew=with_attention_names)
class InputsRecord(TypedDict):
    """What ``poolax lipschitz`` prints of a block, or of a backbone with a pooler."""

    pooler: str
    inputs: str
    num_inputs: int
    num_tokens: list[int]
    dim: int
    radius: float
    spread: float
    geometry: NotRequired[str]
    measured: list[float]
    local: NotRequired[list[float]]
    log10_local: NotRequired[list[float]]
    converged: NotRequired[bool]
    published: NotRequired[float]
    sharp: NotRequired[float]
    tight: NotRequired[float]


@record_kind("bounds", renew=with_attention_names)
class BoundsRecord(TypedDict):
    """What ``poolax bounds`` prints of a block, a head, or a backbone with a pooler."""

    pooler: str
    num_tokens: list[int]
    dim: int
    radius: float
    spread: float
    geometry: NotRequired[str]
    published: NotRequired[float]
    sharp: NotRequired[float]
    tight: NotRequired[float]
    inputs: NotRequired[str]
    num_inputs: NotRequired[int]
    log10_local: NotRequired[list[float] | None]
    local_epsilon: NotRequired[float]
    certified_inputs: NotRequired[int]
    gamma: NotRequired[float]
    certified_zero: NotRequired[bool]


@record_kind("layer")
class LayerRecord(TypedDict):
    """What ``poolax bounds`` prints of one layer of a backbone."""

    method: str
    layer: str
    radius_in: float
    radius_out: float
    spread_in: float
    spread_out: float


@record_kind("embedding")
class EmbeddingRecord(TypedDict):
    """What ``poolax embed`` prints of an input."""

    backbone: str
    inputs: str
    index: int
    embedding: list[float]


@record_kind("family")
class FamilyRecord(TypedDict):
    """What ``poolax models`` prints."""

    name: str
    modality: str
    checkpoints: list[str]
    tested: list[str]


@record_kind("section")
class SectionRecord(TypedDict):
    """What ``poolax docs`` prints of a chapter or section of the theory."""

    number: str
    title: str
    page: str
    text: str


@record_kind("report")
class ReportRecord(TypedDict):
    """What ``poolax report`` prints of the page that it wrote."""

    page: str
    headline: str
    num_records: int
    remarks: list[str]


@record_kind("data set")
class DataSetRecord(TypedDict):
    """What ``poolax data list`` prints."""

    name: str
    title: str
    modality: str
    task: str
    sizes: dict[str, Any]


@record_kind("prepared data")
class PreparedDataRecord(TypedDict):
    """What ``poolax data prepare`` prints."""

    name: str
    options: dict[str, Any]
    path: str


@record_kind("data")
class DataRecord(TypedDict):
    """What ``poolax data describe`` prints."""

    options_given: dict[str, Any]
    splits: dict[str, int]
    arrays: dict[str, Any]
