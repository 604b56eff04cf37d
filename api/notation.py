"""Say how the API writes single values, pages and problems.

Amounts are decimal strings of the token's smallest unit; times are unix seconds, 0 where there is
none yet; bytes are 0x and hexadecimal digits; CIDs are strings; addresses have their checksum.
"""

from __future__ import annotations

from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "Address",
    "Amount",
    "Answer",
    "CidText",
    "Count",
    "Hash",
    "Hex",
    "Page",
    "Problem",
    "Signed",
    "Time",
]

Item = TypeVar("Item")

# Patterns of answers are for the document, which the tests hold the server to; checking them anew
# in every answer would cost a third of its time.

Amount = Annotated[
    str,
    Field(
        json_schema_extra={"pattern": r"^[0-9]+$"},
        description="Amount in the token's smallest unit.",
        examples=["100000000000000000000"],
    ),
]
Address = Annotated[
    str,
    Field(
        json_schema_extra={"pattern": r"^0x[0-9a-fA-F]{40}$"},
        description="Address with its checksum.",
        examples=["0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"],
    ),
]
Hex = Annotated[
    str,
    Field(
        json_schema_extra={"pattern": r"^0x([0-9a-f]{2})*$"},
        description="Bytes.",
        examples=["0x00"],
    ),
]
Hash = Annotated[
    str,
    Field(
        json_schema_extra={"pattern": r"^0x[0-9a-f]{64}$"},
        description="32 bytes.",
        examples=["0x" + "5c" * 32],
    ),
]
CidText = Annotated[
    str,
    Field(
        description="Content identifier (CIDv1).",
        examples=["bafybeidqgovzfeyaey3jk6zhm6qe57wcjs3zvtz2xjyfyw2sk27ofhy3tq"],
    ),
]
Time = Annotated[int, Field(ge=0, description="Unix seconds; 0 if not yet.", examples=[1795634535])]
Count = Annotated[int, Field(ge=0, examples=[3])]
Signed = Annotated[
    str,
    Field(
        json_schema_extra={"pattern": r"^-?[0-9]+$"},
        description="An integer of any size.",
        examples=["-12345678901"],
    ),
]


class Answer(BaseModel):
    """Forbid what is not declared, so that the document is the whole truth."""

    model_config = ConfigDict(extra="forbid")


class Page(Answer, Generic[Item]):
    """Give one page of a list."""

    items: list[Item]
    next: str | None = Field(
        description="Cursor of the next page: give it as `cursor`. Null on the last page.",
        examples=["WzEyXQ"],
    )


class Problem(BaseModel):
    """Say what went wrong (RFC 9457)."""

    type: str = Field(examples=["about:blank"])
    title: str = Field(examples=["Not found"])
    status: int = Field(examples=[404])
    detail: str = Field(examples=["no project begins with 0xff; see /v1/projects"])
    errors: list[dict[str, Any]] | None = None
