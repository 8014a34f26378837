"""A PostgreSQL server for tests: started from Debian's packages in a temporary folder, without touching another one."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PACKAGES = Path("/usr/lib/postgresql")


def programs() -> Path:
    """The folder of initdb and postgres; skips the test where there is none."""
    found = [path.parent for path in PACKAGES.glob("*/bin/initdb")]
    if not found:
        pytest.skip("PostgreSQL is not installed: no initdb below /usr/lib/postgresql")
    return max(found, key=lambda path: int(path.parent.name))


@contextmanager
def server() -> Iterator[str]:
    """The URL of a new server's database, reached through a socket in its own folder; it stops at the end."""
    pytest.importorskip("psycopg", reason="the driver is not installed: pip install 'fltk[postgres]'")
    bin = programs()
    # The path of a socket is short, hence no folder of pytest.
    folder = Path(tempfile.mkdtemp(prefix="fltk-pg-"))
    user = _account(folder)
    try:
        run([bin / "initdb", "-D", folder / "data", "-U", "fltk", "--auth=trust", "-E", "UTF8", "--locale=C"], user)
        options = f"-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off"
        log = folder / "log"
        run([bin / "pg_ctl", "-D", folder / "data", "-l", log, "-w", "-t", "60", "-o", options, "start"], user)
        try:
            yield f"postgresql+psycopg://fltk@/postgres?host={folder}"
        finally:
            run([bin / "pg_ctl", "-D", folder / "data", "-m", "immediate", "-w", "stop"], user)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _account(folder: Path) -> str | None:
    """Who runs the server: it refuses to be root's, so that root lends it to an ordinary user."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        os.chown(folder, entry.pw_uid, entry.pw_gid)
        return name
    pytest.skip("PostgreSQL does not run as root, and there is no other user")


def run(command: list[object], user: str | None) -> None:
    done = subprocess.run(
        [str(part) for part in command],
        user=user,
        cwd="/",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        check=False,
        timeout=120,
        env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"},
    )
    assert done.returncode == 0, done.stdout
