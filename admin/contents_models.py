"""What the routes of volumes' contents take and give."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Request(BaseModel):
    """What is common to requests."""

    model_config = ConfigDict(extra="forbid")

    path: str = Field(description="in the vPool, as in machines/web.raw")


class Resizing(Request):
    """A request for another size."""

    size: int = Field(description="bytes; a multiple of 512, at most 64 TiB")
    shrink: bool = Field(default=False, description="a smaller size is meant: what lies beyond it is lost")


class NewFilling(Request):
    """A request to begin, or to go on, filling a volume from outside."""

    size: int = Field(description="bytes, of the source and of the volume")
    source: str = Field(max_length=256, description="for people")
    fingerprint: str = Field(max_length=128, description="of the source's content; another one is refused")


class FillingProgress(Request):
    """Everything of the source before this is in the volume."""

    done_bytes: int = Field(ge=0)


class FillingReport(BaseModel):
    """A volume that is not complete yet."""

    path: str
    kind: str
    source: str
    done_bytes: int
    size: int


class Verifying(Request):
    """A request to read everything again."""

    patience_s: float | None = Field(default=None, ge=0, description="how long a 404 is not believed; null: lost_object_s")


class Copying(Request):
    """A request to copy a volume."""

    target: str = Field(description="path of the new volume")
    while_open: bool = Field(default=False, description="also if clients may write meanwhile: then it is of no one moment")
    trust_source: bool = Field(default=False, description="go on although it cannot be told whether the source was written")


class ContentReport(BaseModel):
    """What a reader of a whole volume has to know."""

    path: str
    size: int
    version: str = Field(description="changes with every write, and with every start of the daemon")
    handles: int = Field(description="opened by clients of this node")
    filling: FillingReport | None = Field(description="the volume is not complete: an import or copy has not ended")


class Extents(BaseModel):
    """What is mapped in a range; the rest of it is zeros."""

    extents: list[tuple[int, int]] = Field(description="offset and length in bytes, ascending")
    until: int = Field(description="the range that has been looked at ends here")
