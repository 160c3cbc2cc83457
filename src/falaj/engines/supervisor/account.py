"""Running an engine as an unprivileged account when Falaj itself runs as root.

Postgres refuses to run as root. ``setpriv`` (util-linux) drops to the account and keeps at most one capability: the one
that lets it search folders which the account could not enter, so that an interpreter, an environment or a
``FALAJ_HOME`` under ``/root`` works. Where every folder on the way is open, it keeps none.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

from falaj.errors import Terminal

#: Capabilities that open closed folders, the smallest first, with their bit in the kernel's masks (capability.h).
#: Containers often drop the first and keep the second.
_SEARCH_CAPABILITIES = (("dac_read_search", 2), ("dac_override", 1))


def is_needed() -> bool:
    """Whether this process is root, so that engines which refuse root need an account."""
    return os.geteuid() == 0


def lookup(account: str) -> pwd.struct_passwd:
    """The account's entry.

    Raises:
        Terminal: there is no such account, or it is root as well.
    """
    try:
        entry = pwd.getpwnam(account)
    except KeyError as error:
        raise Terminal(
            f"there is no account {account!r} on this machine, and Postgres refuses to run as root",
            where="engine_account",
            hint="name another with --engine-account or FALAJ_ENGINE_ACCOUNT, or run falaj as an ordinary user",
        ) from error
    if entry.pw_uid == 0:
        raise Terminal(
            f"account {account!r} is root as well, and Postgres refuses to run as root",
            where="engine_account",
            hint="name an unprivileged one, such as nobody",
        )
    return entry


def command(account: str | None, argv: Sequence[str], folders: Iterable[Path]) -> tuple[str, ...]:
    """``argv`` as it runs under ``account``, which must be able to enter ``folders``.

    Without an account, or when this process is not root, that is ``argv`` itself.

    Raises:
        Terminal: this machine cannot do that; the message says what is missing.
    """
    if account is None or not is_needed():
        return tuple(argv)
    entry = lookup(account)
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise Terminal(
            f"cannot run {Path(argv[0]).name} as {account!r}: the program setpriv is missing",
            where="PATH",
            hint="install util-linux, or run falaj as an ordinary user",
        )
    # `nobody` belongs to no further groups; whatever others belong to, an engine needs none of them.
    drop = [setpriv, "--reuid", str(entry.pw_uid), "--regid", str(entry.pw_gid), "--clear-groups"]
    closed = closed_folder(entry, folders)
    if closed is not None:
        capability = _search_capability()
        if capability is None:
            raise Terminal(
                f"account {account!r} cannot enter {closed}, and this process may not hand it the capability to",
                where=str(closed),
                hint=f"chmod o+x {closed}, put FALAJ_HOME elsewhere, or run falaj as an ordinary user",
            )
        drop += ["--inh-caps", f"+{capability}", "--ambient-caps", f"+{capability}"]
    return (*drop, "--", *argv)


def closed_folder(entry: pwd.struct_passwd, folders: Iterable[Path]) -> Path | None:
    """The first folder on the way to ``folders`` that the account may not enter, or None.

    The last step of each way is left out: it is the engine's own, or a file.
    """
    for folder in folders:
        for step in reversed(folder.absolute().parents):
            if step.exists() and not step.stat().st_mode & _enter_bit(entry, step.stat()):
                return step
    return None


def _enter_bit(entry: pwd.struct_passwd, folder: os.stat_result) -> int:
    if folder.st_uid == entry.pw_uid:
        return stat.S_IXUSR
    return stat.S_IXGRP if folder.st_gid == entry.pw_gid else stat.S_IXOTH


def _search_capability() -> str | None:
    permitted = 0
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("CapPrm:"):
            permitted = int(line.split()[1], 16)
    return next((name for name, bit in _SEARCH_CAPABILITIES if permitted >> bit & 1), None)
