"""deployment.md, followed from top to bottom: a real PostgreSQL with TLS, an S3 server, nginx, and servers by the page's own unit.

Of a machine's administration three programs are played, as a test is no service's manager: `systemctl` runs what the unit's
ExecStart and EnvironmentFile say, `runuser` changes no user, `nginx` has a main configuration that includes the page's. Paths of
the system lie below the home directory, and ports are free ones.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests import postgres, s3
from tests.ports import HeldPort
from tests.semantics.printed import check, console_blocks, environment

PAGE = Path(__file__).parents[2] / "artifactfs" / "docs" / "deployment.md"
SECONDS = 560  # some eighty commands; a machine with other work took 180
BUCKETS = ("example-artifacts", "example-backup")

SYSTEMCTL = r"""#!/bin/bash
# systemctl [start|stop|restart|kill] [--signal=S] UNIT…, by the unit's file.
set -eu
root=$1 verb=$2; shift 2
signal=TERM
for unit; do
    case $unit in --signal=*) signal=${unit#*=}; continue ;; esac
    pid=$root/$unit.pid
    if [[ $verb == kill ]]; then
        kill -s "$signal" "$(cat "$pid")"
    fi
    if [[ ( $verb == stop || $verb == restart ) && -e $pid ]]; then
        kill "$(cat "$pid")"
        while kill -0 "$(cat "$pid")" 2>/dev/null; do sleep 0.05; done
        rm "$pid"
    fi
    if [[ $verb == start || $verb == restart ]]; then
        if [[ $unit == nginx ]]; then
            nginx -g 'daemon off;' >>"$root/$unit.log" 2>&1 &
        else
            file=$root/etc/systemd/system/${unit%@*}@.service
            run=$(sed -n "s/^ExecStart=//p" "$file" | sed "s/%i/${unit#*@}/g")
            (
                set -a; . "$(sed -n 's/^EnvironmentFile=//p' "$file")"; set +a
                cd /; exec env -u ARTIFACTFS_REPOSITORY HOME="$root/srv/artifactfs" $run
            ) >>"$root/$unit.log" 2>&1 </dev/null &
        fi
        echo $! >"$pid"
    fi
done
"""
MAIN = """\
worker_processes 1;
pid {root}/nginx.main;
error_log {root}/nginx.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {root}/tmp/body;
    proxy_temp_path {root}/tmp/proxy;
    fastcgi_temp_path {root}/tmp/fastcgi;
    uwsgi_temp_path {root}/tmp/uwsgi;
    scgi_temp_path {root}/tmp/scgi;
    include {root}/etc/nginx/conf.d/*.conf;
}}
"""


@pytest.fixture(scope="module")
def database() -> Iterator[postgres.Server]:
    """A cluster that speaks TLS with a certificate for localhost."""
    with postgres.running() as server:
        names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
        files = ["-keyout", server.data / "server.key", "-out", server.data / "server.crt"]
        make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        subprocess.run([*make, "-days", "2", *names, *files], capture_output=True, check=True)
        owner = server.data.stat()
        for name in ("server.key", "server.crt"):
            os.chown(server.data / name, owner.st_uid, owner.st_gid)
        server.sql("ALTER SYSTEM SET ssl = on")
        server.sql("SELECT pg_reload_conf()")
        yield server


@pytest.fixture(scope="module")
def bucket() -> Iterator[s3.Server]:
    with s3.moto() as server:
        for name in BUCKETS:
            server.client.create_bucket(Bucket=name)
        yield server


class Machine:
    """The directory that stands for the machine's, and what the page's names mean in it."""

    def __init__(self, home: Path, database: postgres.Server, bucket: s3.Server) -> None:
        self.home = home
        self.root = home / "machine"
        self._database = database
        self._held = {name: HeldPort() for name in ("443", "7420", "7421")}
        self._ports = {name: str(port.number) for name, port in self._held.items()}
        self._endpoint = bucket.endpoint
        for name in ("bin", "tmp", "srv/artifactfs", "etc/artifactfs", "etc/ssl/certs", "etc/ssl/private"):
            (self.root / name).mkdir(parents=True)
        shutil.copy(database.data / "server.crt", self.root / "etc/ssl/db-ca.pem")
        (self.root / "nginx.conf").write_text(MAIN.format(root=self.root))
        (self.root / "systemctl").write_text(SYSTEMCTL)
        self._program("systemctl", f'exec bash {self.root}/systemctl {self.root} "$@"')
        self._program("nginx", f'exec /usr/sbin/nginx -p {self.root} -e {self.root}/nginx.log -c nginx.conf "$@"')
        as_administrator = f"PGHOST={database.place} PGPORT={database.port} PGUSER={postgres.USER} PGDATABASE=postgres"
        self._program("runuser", f'shift 3; exec env {as_administrator} "$@"')

    def _program(self, name: str, command: str) -> None:
        path = self.root / "bin" / name
        path.write_text(f"#!/bin/sh\n{command}\n")
        path.chmod(0o755)

    def here(self, text: str) -> str:
        """A text of the page with what its names mean here."""
        for shown, meant in (
            ("db.example.org:5432", f"localhost:{self._database.port}"),
            ("https://s3.example.org", self._endpoint),
            ("https://data.example.org", f"https://localhost:{self._ports['443']}"),
            ("listen 443", f"listen 127.0.0.1:{self._ports['443']}"),
            ("7420", self._ports["7420"]),
            ("7421", self._ports["7421"]),
            ("/opt/artifactfs/bin", str(Path(sys.executable).parent)),
        ):
            text = text.replace(shown, meant)
        return re.sub(r"(?<![\w.…/])/(?=(?:etc|srv|var)/)", f"{self.root}/", text)

    def write_files(self) -> list[str]:
        """Write each file of the page to where its first line says."""
        found = re.findall(r"^```text\n# (/\S+)\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
        for name, text in found:
            path = Path(self.here(name))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self.here(text), "utf-8")
        return [name for name, _ in found]

    def logs(self) -> str:
        """The ends of what the servers said."""
        return "".join(f"{path.name}:\n{path.read_text()[-3000:]}\n" for path in sorted(self.root.glob("*.log")))

    def end(self) -> None:
        """End what was started here and is left, and give its ports back."""
        for path in self.root.glob("*.pid"):
            with suppress(ProcessLookupError, ValueError):
                os.kill(int(path.read_text()), signal.SIGKILL)
        for port in self._held.values():
            port.close()


@pytest.fixture
def machine(home: Path, database: postgres.Server, bucket: s3.Server) -> Iterator[Machine]:
    made = Machine(home, database, bucket)
    yield made
    made.end()


@pytest.mark.timeout(700)
def test_the_page_on_deployment_can_be_followed(machine: Machine, database: postgres.Server, bucket: s3.Server):
    written = machine.write_files()
    assert [name.rpartition("/")[2] for name in written] == [
        "server.env",
        "artifactfs@.service",
        "artifactfs.conf",
        "rclone.conf",
        "backup.sh",
    ]
    commands = machine.here("".join(console_blocks(PAGE)))
    path = environment(machine.home)["PATH"]
    variables = {"PATH": f"{machine.root / 'bin'}:{path}", "AWS_ALLOW_HTTP": "true"}
    try:
        check(commands, machine.home, variables, seconds=SECONDS)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{machine.logs()}") from None
    for log in machine.root.glob("*.log"):
        assert "Traceback" not in log.read_text(), log.read_text()
    # What the page says of the two parts.
    assert database.sql("SELECT rolsuper, rolcreatedb, rolcreaterole FROM pg_roles WHERE rolname = 'artifactfs'") == [
        (False, False, False)
    ]
    live = {key.removeprefix("team/") for key in bucket.keys("team/", bucket="example-artifacts")}
    copied = {key.removeprefix("team/") for key in bucket.keys("team/", bucket="example-backup")}
    restored = {key.removeprefix("restored/") for key in bucket.keys("restored/", bucket="example-artifacts")}
    assert copied
    assert copied == restored
    assert copied <= live
    assert not bucket.unfinished("example-artifacts")
