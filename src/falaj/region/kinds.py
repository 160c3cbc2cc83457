"""The kinds that the kernel itself needs: where things run (Site) and whose they are (Project)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, StringConstraints

from falaj.region.resource import Kind, Scope, SpecModel, StatusModel


class SiteSpec(SpecModel):
    """A failure domain with a jurisdiction: one data centre, or one machine."""

    jurisdiction: Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}$")]
    """ISO 3166-1 alpha-2 code of the country whose law holds where the site stands."""
    role: Literal["data", "witness"] = "data"


class EngineStatus(BaseModel):
    """One process of a site, as its supervisor sees it."""

    name: str
    ready: bool
    pid: int | None = None
    port: int | None = None
    restarts: int = 0
    message: str = ""


class SiteStatus(StatusModel):
    """The site's engines, as last observed."""

    engines: list[EngineStatus] = Field(default_factory=list)


class ProjectSpec(SpecModel):
    """The owner of resources: a team, a product, an environment."""

    description: Annotated[str, StringConstraints(max_length=500)] = ""
    resources_max: Annotated[int, Field(ge=1, le=100_000)] = 10_000
    """How many resources the project may hold; one more is refused at admission."""


class ProjectStatus(StatusModel):
    """How many resources the project holds."""

    resources: int = 0


SITE = Kind("Site", "sites", Scope.REGION, SiteSpec, SiteStatus, room="region")
PROJECT = Kind("Project", "projects", Scope.REGION, ProjectSpec, ProjectStatus, room="region")
