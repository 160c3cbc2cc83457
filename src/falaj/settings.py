"""Typed settings of a Falaj process, read once, by ``app`` and ``cli`` alone; everything else receives values.

Order, first wins: command-line flags, environment (``FALAJ_PORT``), ``falaj.toml`` in the current folder,
``falaj.toml`` in ``FALAJ_HOME``, defaults.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, StringConstraints, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from falaj.errors import Invalid, nearest

SiteName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$")]


class Settings(BaseSettings):
    """Every setting, its unit in its name, and what it is for."""

    model_config = SettingsConfigDict(env_prefix="FALAJ_", extra="forbid", frozen=True)

    home: Path = Field(default_factory=lambda: Path.home() / ".falaj")
    """Folder of the region's state on this machine."""
    region: SiteName = "local"
    """Name of the region."""
    site: SiteName = "local-a"
    """Name of the site that this machine is."""
    jurisdiction: Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}$")] = "AE"
    """ISO 3166-1 country code of the site."""
    host: str = "127.0.0.1"
    """Address that the region listens on. Anything but loopback must be asked for."""
    port: Annotated[int, Field(ge=1, le=65535)] = 7440
    """Port of every wire but S3: REST, OpenAI, health, metrics."""
    s3_port: Annotated[int, Field(ge=1, le=65535)] = 7441
    """Port of the S3 wire."""
    models_dir: Path | None = None
    """Folder of model files; ``HOME/models`` when not given. May be shared by several regions."""
    model_files_dir: Path | None = None
    """Folder that is searched first for a model's file before anything is downloaded."""
    model_hub_url: str = "https://huggingface.co"
    """Address of the model hub that catalogue entries name repositories of."""
    engine_account: str = "nobody"
    """Unprivileged account that Postgres runs as when Falaj runs as root."""
    request_bytes_max: Annotated[int, Field(ge=1024)] = 2 << 20
    """Largest body of a request; objects have their own limit."""
    object_bytes_max: Annotated[int, Field(ge=1024)] = 64 << 20
    """Largest object that can be put through the REST wire (S3 clients use multipart and are not bound by it)."""
    reconcile_concurrency: Annotated[int, Field(ge=1, le=256)] = 16
    """How many resources one control process works on at once."""
    log_level: Annotated[str, StringConstraints(pattern=r"^(debug|info|warning|error)$")] = "info"
    log_bytes_max: Annotated[int, Field(ge=65536)] = 8 << 20
    """A process's log is rotated at this size; three old ones are kept."""
    up_timeout_seconds: Annotated[float, Field(ge=1)] = 120.0
    """How long ``falaj up`` waits for the region to be ready."""

    @property
    def site_dir(self) -> Path:
        """Folder of this machine's site."""
        return self.home / "sites" / self.site

    @property
    def secrets_dir(self) -> Path:
        """Folder of secrets; readable by its owner alone."""
        return self.home / "secrets"

    @property
    def models_path(self) -> Path:
        """Folder of model files."""
        return self.models_dir or self.home / "models"

    @property
    def url(self) -> str:
        """Where a client on this machine reaches the region."""
        host = "127.0.0.1" if self.host in {"0.0.0.0", "::"} else self.host  # noqa: S104 -- compared, not bound
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, then environment, then ``falaj.toml`` here, then ``falaj.toml`` in the home folder."""
        home = Path(init_settings().get("home") or os.environ.get("FALAJ_HOME") or Path.home() / ".falaj")
        files = [path for path in (Path("falaj.toml"), home / "falaj.toml") if _readable(path)]
        return init_settings, env_settings, *(TomlConfigSettingsSource(settings_cls, path) for path in files)


def _readable(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


def load(**flags: Any) -> Settings:
    """The settings of this process; ``flags`` that are None were not given.

    Raises:
        Invalid: a setting is unknown or has a wrong value; the error names it and where it came from.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        settings = Settings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else "settings"
        hint = nearest(name, Settings.model_fields) if first["type"] == "extra_forbidden" else ""
        raise Invalid(
            f"setting {name!r}: {first['msg']}",
            where=f"--{name.replace('_', '-')}, FALAJ_{name.upper()} or falaj.toml",
            hint=hint or "see `falaj settings`",
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise Invalid(
            f"falaj.toml is not TOML: {error}", where="falaj.toml", hint="see docs/guides/settings.md"
        ) from error
    return settings.model_copy(update={"home": settings.home.expanduser().absolute()})
