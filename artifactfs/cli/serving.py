"""``serve``: the repository for other machines, over HTTP."""

from __future__ import annotations

import resource
import socket
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from artifactfs.cli import printing
from artifactfs.cli.context import Context, pass_context
from artifactfs.errors import Access, InvalidInput, Unavailable

if TYPE_CHECKING:
    from artifactfs.content.local import LocalStore
    from artifactfs.registry.sql import SQLRegistry
    from artifactfs.repository import Repository


@click.command("serve")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option("--port", type=click.IntRange(0, 65535), default=7420, show_default=True, help="Port; 0 is any free one.")
@click.option(
    "--allow-unauthenticated",
    is_flag=True,
    help="Listen beyond this machine without asking anybody for a token, or here for a proxy that knows who may.",
)
@click.option("--require-tokens", is_flag=True, help="Ask for tokens also here, and before there is one.")
@click.option("--tls-cert", type=click.Path(path_type=Path), metavar="FILE", help="Certificate chain (PEM): speak TLS.")
@click.option("--tls-key", type=click.Path(path_type=Path), metavar="FILE", help="The certificate's key (PEM).")
@click.option("--allow-plain-http", is_flag=True, help="Listen beyond this machine without TLS.")
@click.option(
    "--graceful",
    type=click.IntRange(0, 3600),
    default=30,
    show_default=True,
    metavar="SECONDS",
    help="How long requests may take to finish once it is told to stop.",
)
@click.option(
    "--gc-interval",
    type=click.FloatRange(min=0, min_open=True),
    metavar="HOURS",
    help="Collect the garbage of all projects every so many hours. Default: only when `gc` asks for it.",
)
@click.option("--no-access-log", is_flag=True, help="Log failures only, not every request.")
@pass_context
def serve_command(
    context: Context,
    *,
    host: str,
    port: int,
    allow_unauthenticated: bool,
    require_tokens: bool,
    tls_cert: Path | None,
    tls_key: Path | None,
    allow_plain_http: bool,
    graceful: int,
    gc_interval: float | None,
    no_access_log: bool,
) -> None:
    """Serve the repository over HTTP until interrupted (SIGINT, SIGTERM).

    Prints its address once it is ready, and then logs each request as a line of JSON on stderr. Once a token was made (artifactfs
    token create) nobody comes in without one. Beyond this machine it listens with tokens and TLS only, unless it is told otherwise.

    \b
    Example:
      artifactfs serve
      artifactfs serve --host 0.0.0.0 --tls-cert server.pem --tls-key server.key
      artifactfs --repository http://127.0.0.1:7420 ls
    """
    try:
        from artifactfs.server.app import create_app
        from artifactfs.server.certificates import Certificate, check_certificate
        from artifactfs.server.log import Log
        from artifactfs.server.serving import Serving, is_loopback, listen, url_of
    except ImportError as error:
        raise Unavailable(
            f"serve needs packages that are not installed ({error.name}); pip install 'artifactfs[server]'"
        ) from error

    location = context.settings.repository
    if "://" in location and not location.startswith("file://"):
        raise InvalidInput(
            f"serve needs a repository in a directory, not {location}; give one: artifactfs --repository DIR serve"
        )
    loopback = is_loopback(host)
    if allow_unauthenticated and require_tokens:
        raise InvalidInput("--allow-unauthenticated and --require-tokens exclude each other; give one of them")
    if (tls_cert is None) != (tls_key is None):
        raise InvalidInput("--tls-cert and --tls-key belong together; give both")
    certificate = None
    if tls_cert is not None and tls_key is not None:
        certificate = check_certificate(Certificate(tls_cert, tls_key))
    elif not loopback and not allow_plain_http:
        raise Access(
            f"{host} can be reached from other machines, and without TLS others could read what goes there, tokens too; give "
            "--tls-cert and --tls-key, or listen at 127.0.0.1 behind a proxy that speaks TLS, or accept it with --allow-plain-http"
        )
    require_tokens = require_tokens or not (loopback or allow_unauthenticated)
    # First, so that a port that is in use makes no repository.
    with closing(listen(host, port)) as listener, context.open(create=True) as repository:
        registry, store = _parts(repository)
        if require_tokens and not loopback and not registry.tokens.exist():
            raise Access(
                f"{host} can be reached from other machines, and there is no token yet, so that nobody could come in; make the first: "
                f"artifactfs --repository {repository.location} token create --role admin --all-projects"
            )
        url = url_of(listener, tls=certificate is not None)
        reached = url if loopback else f"{urlsplit(url).scheme}://{socket.gethostname()}:{listener.getsockname()[1]}"

        def tell() -> None:
            printing.line(f"serving {repository.location} at {url}")
            printing.line(
                f"use it with: artifactfs --repository {reached} ls, or export ARTIFACTFS_REPOSITORY={reached}"
            )
            sys.stdout.flush()

        # A connection takes a descriptor, and a follower keeps one; the usual soft limit of 1,024 is for programs that use select().
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        log = Log(_write, access=not no_access_log)
        try:
            app = create_app(
                registry,
                store,
                log=log,
                require_tokens=require_tokens,
                hosts={"localhost", host} if loopback and not allow_unauthenticated else None,
            )
            if gc_interval is not None:
                app.state.service.collections.schedule(
                    gc_interval * 3600, lambda project, outcome: log.note("info", f"garbage of {project}: {outcome}")
                )
            Serving(app, listener, graceful=graceful, certificate=certificate).run(tell)
        finally:
            log.close()


def _parts(repository: Repository) -> tuple[SQLRegistry, LocalStore]:
    from artifactfs.content.local import LocalStore
    from artifactfs.registry.sql import SQLRegistry

    registry, store = repository.registry, repository.store
    assert isinstance(registry, SQLRegistry)  # noqa: S101 - of a directory
    assert isinstance(store, LocalStore)  # noqa: S101 - of a directory
    return registry, store


def _write(line: str) -> None:
    sys.stderr.write(line)
    sys.stderr.flush()
