"""One run of the command: which region, with which key, and what its resources are called."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec
from urllib.parse import urlsplit

import click

from falaj.cli.client import Client, segments
from falaj.cli.options import region_options
from falaj.cli.output import Output
from falaj.errors import Denied, Invalid, NotFound, nearest

if TYPE_CHECKING:
    from falaj.settings import Settings

P = ParamSpec("P")

_KEY_BYTES_MAX = 4096
_PAGE_ITEMS = 500
LIST_ITEMS_MAX = 100_000


@dataclass(frozen=True, slots=True)
class KindInfo:
    """A row of the region's kind table, as the wire shows it."""

    name: str
    plural: str
    scope: str
    short: tuple[str, ...] = ()

    @property
    def of_project(self) -> bool:
        """Whether its names are unique in a project only."""
        return self.scope == "project"


@dataclass(frozen=True, slots=True)
class Reference:
    """A resource named on the command line; ``project`` is empty for kinds of region scope."""

    kind: KindInfo
    project: str
    name: str

    def __str__(self) -> str:
        return "/".join(part for part in (self.kind.name, self.project, self.name) if part)

    @property
    def path(self) -> str:
        """Its address on the REST wire."""
        owner = ("projects", self.project) if self.kind.of_project else ()
        return segments(*owner, self.kind.plural, self.name)


class Session:
    """The options of a run and what follows from them, each found out when it is first needed.

    Args:
        home, url, key_file, project, as_json: the shared options; None when not given.

    Attributes:
        home: the folder of ``--home``; None when not given. In force is ``settings.home``.
        project: the project of ``-p`` or ``FALAJ_PROJECT``; None when not given.
        out: where to print.
    """

    def __init__(
        self,
        *,
        home: Path | None = None,
        url: str | None = None,
        key_file: Path | None = None,
        project: str | None = None,
        as_json: bool = False,
    ) -> None:
        self.home = home
        self._url = url or os.environ.get("FALAJ_URL") or None
        self._key_file = key_file
        self.project = project or os.environ.get("FALAJ_PROJECT") or None
        self.out = Output(as_json=as_json)

    @cached_property
    def settings(self) -> Settings:
        """The settings of this process.

        Raises:
            Invalid: a setting is wrong.
        """
        from falaj.settings import load  # noqa: PLC0415 -- a fifth of a second that `--help` must not cost

        return load(home=self.home)

    @cached_property
    def url(self) -> str:
        """The region's address."""
        return self._url or self.settings.url

    @property
    def is_local(self) -> bool:
        """Whether the region is the one of this machine's settings, so that its folder and its key are meant."""
        if self._url is None or self._url.rstrip("/") == self.settings.url:
            return True
        return urlsplit(self._url).hostname in {"127.0.0.1", "localhost", "::1"}

    @cached_property
    def client(self) -> Client:
        """The region's REST wire."""
        return Client(self.url, self._key())

    @cached_property
    def kinds(self) -> dict[str, KindInfo]:
        """The kinds that the region knows, by name."""
        rows = self.client.get(segments("kinds"))["items"]
        kinds = [KindInfo(row["name"], row["plural"], row["scope"], tuple(row.get("short", ()))) for row in rows]
        return {kind.name: kind for kind in kinds}

    def kind(self, word: str) -> KindInfo:
        """The kind meant by a name, a plural or a short form, in any case.

        Raises:
            Invalid: no kind is called that.
        """
        for kind in self.kinds.values():
            if word.lower() in (kind.name.lower(), kind.plural, *kind.short):
                return kind
        raise Invalid(f"there is no kind {word!r}", hint=nearest(word, self.kinds))

    def reference(self, text: str) -> Reference:
        """The resource meant by ``kind/name`` or ``kind/project/name``.

        Without a project it is that of ``-p`` or ``FALAJ_PROJECT``, else the only project that has such a resource.

        Raises:
            Invalid: the text is neither, or several projects have one. NotFound: none has.
        """
        word, *rest = text.split("/")
        if len(rest) not in (1, 2) or not all(rest):
            raise Invalid(f"{text!r} does not name a resource", hint="write kind/name or kind/project/name")
        kind = self.kind(word)
        if not kind.of_project:
            if len(rest) == 2:
                raise Invalid(f"a {kind.name} belongs to no project", where=text, hint=f"write {word}/{rest[1]}")
            return Reference(kind, "", rest[0])
        return Reference(kind, rest[0] if len(rest) == 2 else self.owner(kind, rest[0]), rest[-1])

    def owner(self, kind: KindInfo, name: str) -> str:
        """The project meant when only a name was given.

        Raises:
            Invalid: several projects have such a resource. NotFound: none has.
        """
        if self.project:
            return self.project
        items = list(self.list(kind))
        owners = sorted({item["metadata"]["project"] for item in items if item["metadata"]["name"] == name})
        if len(owners) == 1:
            return str(owners[0])
        if owners:
            raise Invalid(
                f"{len(owners)} projects have a {kind.name} {name!r}: {', '.join(owners[:20])}",
                hint="choose one with -p PROJECT or FALAJ_PROJECT",
            )
        hint = nearest(name, {item["metadata"]["name"] for item in items}) or f"see `falaj get {kind.plural}`"
        raise NotFound(f"there is no {kind.name} {name!r} in any project", hint=hint)

    def only_project(self) -> str:
        """The project of ``-p`` or ``FALAJ_PROJECT``, else the only one there is besides ``system``.

        Raises:
            Invalid: there are several. NotFound: there is none.
        """
        if self.project:
            return self.project
        names = [item["metadata"]["name"] for item in self.list(self.kind("Project"))]
        own = [name for name in names if name != "system"]
        if len(own) == 1:
            return str(own[0])
        if own:
            raise Invalid(
                f"there are {len(own)} projects: {', '.join(own[:20])}",
                hint="choose one with -p PROJECT or FALAJ_PROJECT",
            )
        raise NotFound("there is no project yet", hint="declare one: `falaj apply -f examples/handbook/`")

    def list(
        self, kind: KindInfo, *, project: str | None = None, labels: Sequence[str] = ()
    ) -> Iterator[Mapping[str, Any]]:
        """The resources of a kind, page by page, in the order of the store."""
        after: str | None = None
        for _ in range(LIST_ITEMS_MAX // _PAGE_ITEMS):
            query = {"project": project, "label": list(labels), "limit": _PAGE_ITEMS, "after": after}
            page = self.client.get(segments(kind.plural), query)
            yield from page["items"]
            after = page.get("next")
            if not after:
                return

    def _key(self) -> str:
        """The API key: ``--key-file``, ``FALAJ_API_KEY``, or the administrator's key of this machine's region."""
        if self._key_file is not None:
            return _read_key(self._key_file, where="--key-file")
        if key := os.environ.get("FALAJ_API_KEY", "").strip():
            return key
        if not self.is_local:
            return ""  # the administrator's key of this machine is nothing that another machine may see
        path = self.settings.secrets_dir / "admin.key"
        try:
            return _read_key(path, where=str(path))
        except NotFound:
            return ""  # no region was made here yet: the call will say so


def _read_key(path: Path, *, where: str) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_KEY_BYTES_MAX + 1)
        key = content.decode("ascii").strip()
    except FileNotFoundError as error:
        raise NotFound(f"there is no file {path}", where=where, hint="give a file that holds an API key") from error
    except PermissionError as error:
        raise Denied(f"{path} may not be read", where=where, hint="use the account that ran `falaj up`") from error
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"{path} is not a key file: {error}", where=where, hint="it holds one line: flj_…") from error
    if not key or len(content) > _KEY_BYTES_MAX or any(character.isspace() for character in key):
        raise Invalid(f"{path} does not hold one API key", where=where, hint="it holds one line: flj_…")
    return key


def with_session(function: Callable[Concatenate[Session, P], None]) -> Callable[..., None]:
    """Give a command the shared options, and a ``Session`` made of them as its first argument."""

    @region_options
    @functools.wraps(function)
    def run(*arguments: Any, **options: Any) -> None:
        function(session_of(options, click.get_current_context()), *arguments, **options)

    return run


def session_of(options: dict[str, Any], context: click.Context) -> Session:
    """A ``Session`` of the shared options, which are taken out of ``options``; those before the command fill gaps."""
    before = context.find_root().params

    def given(name: str) -> Any:
        return options.pop(name, None) or before.get(name)

    return Session(
        home=given("home"),
        url=given("url"),
        key_file=given("key_file"),
        project=given("project"),
        as_json=bool(given("as_json")),
    )
