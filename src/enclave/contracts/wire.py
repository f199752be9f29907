"""The base of every type that crosses a process boundary, and the ids they carry."""

import re
from datetime import UTC, datetime
from typing import Annotated, Final, Generic, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, PlainSerializer, WithJsonSchema
from pydantic.alias_generators import to_camel

_UNIT = re.compile(r"(?<=[MK])ib\b")


def wire_name(name: str) -> str:
    """The camelCase name of a snake_case field; binary units keep their capital B (`memoryMiB`)."""
    return _UNIT.sub("iB", to_camel(name))


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


Timestamp = Annotated[
    AwareDatetime,
    PlainSerializer(_rfc3339, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
"""An aware moment; on the wire RFC 3339 in UTC with microseconds."""

SESSION_ID: Final = r"^ses_[0-9a-z]{26}$"
SessionId = Annotated[str, Field(pattern=SESSION_ID)]
OrgId = Annotated[str, Field(min_length=1, max_length=64)]


class Wire(BaseModel):
    """A frozen value: snake_case in Python, camelCase in JSON, unknown fields refused."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        alias_generator=wire_name,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        allow_inf_nan=False,
        # A client uses few of the types that it imports: building those alone saves it a fifth of its start.
        defer_build=True,
    )


def build_types() -> None:
    """Build all types that are known by now, for whoever serves and would rather not do it during an answer."""
    left = [Wire]
    while left:
        kind = left.pop()
        left += kind.__subclasses__()
        kind.model_rebuild()


T = TypeVar("T")


class Page(Wire, Generic[T]):
    """Part of a list, in the list's order; `next_cursor` fetches the part that follows, null at the end."""

    items: tuple[T, ...]
    next_cursor: str | None = None
