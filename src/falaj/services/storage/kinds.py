"""The kind of the storage room: Bucket."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from falaj.region.resource import Key, Kind, Name, Scope, SpecModel, StatusModel


class BucketSpec(SpecModel):
    """A place for objects, reached over S3 with the credentials of its project."""

    site: Name | None = None
    """Where the objects rest; placement chooses a ready data site when it is not given."""
    versioning: bool = False
    size_bytes_max: Annotated[int, Field(ge=1)] | None = None


class BucketStatus(StatusModel):
    """Where the bucket is and what it is called on the S3 wire."""

    site: str = ""
    s3_bucket: str = ""
    """``project.name``: the bucket's name for an S3 client."""
    s3_endpoint: str = ""


def _references(key: Key, spec: BucketSpec) -> list[Key]:
    return [Key("Site", "", spec.site)] if spec.site else []


BUCKET = Kind("Bucket", "buckets", Scope.PROJECT, BucketSpec, BucketStatus, "storage", _references)
