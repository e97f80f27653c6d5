"""PostgreSQL's own regression database, as its tests leave it behind.

It is not shipped here: apt fetches Debian's source package, from the mirror that the machine has.
"""

import os
import subprocess
from pathlib import Path

import pytest

from sandbox.servers import wait_for

RELEASE, PACKAGE = "bookworm", "postgresql-15"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "openmanus-recovery" / f"{RELEASE}-{PACKAGE}"
OPTIONS = ["allow_in_place_tablespaces=on", "max_prepared_transactions=2"]
"""What a server needs for it."""
SETTINGS = ("lc_messages TO 'C'", "lc_monetary TO 'C'", "lc_numeric TO 'C'", "lc_time TO 'C'", "bytea_output TO 'hex'")


def source_archive():
    """The source package's archive, kept in the user's cache; a test that can't get it is skipped."""
    if not (found := sorted(CACHE.glob("*.orig.tar.*"))):
        try:
            _fetch()
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"apt can't fetch the source of {PACKAGE} of Debian {RELEASE}: {getattr(error, 'stderr', None) or error}")
        found = sorted(CACHE.glob("*.orig.tar.*"))
    return found[-1]


def _fetch():
    for folder in ("lists/partial", "archives/partial"):
        (CACHE / folder).mkdir(parents=True, exist_ok=True)
    asked = ["apt-get", "indextargets", "--format=$(SITE)", "Created-By: Packages", f"Release: {RELEASE}"]
    mirrors = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.splitlines()
    if not mirrors:
        raise FileNotFoundError(f"apt knows no mirror of {RELEASE}")
    (CACHE / "sources.list").write_text(f"deb-src [signed-by={KEYRING}] {mirrors[0]} {RELEASE} main\n")
    places = {"Etc::sourcelist": "sources.list", "State": ".", "Cache": "."}
    options = [part for name, place in places.items() for part in ("-o", f"Dir::{name}={CACHE / place}")]
    options += ["-o", "Dir::Etc::sourceparts=-", "-o", "APT::Sandbox::User="]
    for command in (["update", "--error-on=any"], ["source", "--download-only", PACKAGE]):
        subprocess.run(["apt-get", "-q", *options, *command], cwd=CACHE, check=True, capture_output=True, text=True)


def make(server, database, folder):
    """Make the database on a server that has :data:`OPTIONS`; the folder is one that its user can enter."""
    inside = "src/test/regress"
    members = [f"*/{inside}/{name}" for name in ("sql", "data", "parallel_schedule")]
    subprocess.run(["tar", "--extract", f"--file={source_archive()}", f"--directory={folder}", "--wildcards", *members], check=True)
    (tests,) = folder.glob(f"*/{inside}")
    with server.connect() as connection:
        connection.execute(f"CREATE DATABASE {database} TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")
        for setting in SETTINGS:
            connection.execute(f"ALTER DATABASE {database} SET {setting}")
    schedule = (
        line.removeprefix("test: ").split() for line in (tests / "parallel_schedule").read_text().splitlines() if line[:5] == "test:"
    )
    for script in (tests / "sql" / f"{name}.sql" for names in schedule for name in names):
        if script.exists():
            _run(server, database, script)


def _run(server, database, script):
    """Much of it is meant to fail; without PostgreSQL's test library, what is made of that is left out."""
    login = {"PGHOST": "127.0.0.1", "PGPORT": str(server.port), "PGUSER": "postgres", "PGPASSWORD": server.password, "PGDATABASE": database}
    folders = {"PG_ABS_SRCDIR": script.parent.parent, "PG_ABS_BUILDDIR": script.parent, "PG_LIBDIR": "/nowhere", "PG_DLSUFFIX": ".so"}
    ways = {"PGTZ": "America/Los_Angeles", "PGDATESTYLE": "Postgres, MDY", "PGOPTIONS": "-c intervalstyle=postgres_verbose"}
    argv = [server.bin / "psql", "--no-psqlrc", "--quiet", f"--file={script}"]
    environ = {name: str(value) for name, value in (os.environ | login | folders | ways).items()}
    subprocess.run(argv, env=environ, cwd=script.parent, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    wait_for(f"the server after {script.name}", server.ready)
