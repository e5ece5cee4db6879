"""``serve``: the repository for other machines, over HTTP."""

from __future__ import annotations

import resource
import socket
import sys
from contextlib import closing
from typing import TYPE_CHECKING

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
    help="Listen beyond this machine, although nobody is asked who they are.",
)
@click.option(
    "--graceful",
    type=click.IntRange(0, 3600),
    default=30,
    show_default=True,
    metavar="SECONDS",
    help="How long requests may take to finish once it is told to stop.",
)
@click.option("--no-access-log", is_flag=True, help="Log failures only, not every request.")
@pass_context
def serve_command(
    context: Context, host: str, port: int, allow_unauthenticated: bool, graceful: int, no_access_log: bool
) -> None:
    """Serve the repository over HTTP until interrupted (SIGINT, SIGTERM).

    Prints its address once it is ready, and then logs each request as a line of JSON on stderr. Whoever reaches the address can
    read, change and delete everything: this release has no access control, so beyond this machine it listens only when told so.

    \b
    Example:
      artifactfs serve
      artifactfs --repository http://127.0.0.1:7420 ls
    """
    try:
        from artifactfs.server.app import create_app
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
    if not loopback and not allow_unauthenticated:
        raise Access(
            f"{host} can be reached from other machines, and this release has no access control (a later one will): whoever reaches "
            "it could read, change and delete everything; listen at 127.0.0.1 behind a proxy that checks who asks, or accept it with "
            "--allow-unauthenticated"
        )
    # First, so that a port that is in use makes no repository.
    with closing(listen(host, port)) as listener, context.open(create=True) as repository:
        registry, store = _parts(repository)
        url = url_of(listener)
        reached = url if loopback else f"http://{socket.gethostname()}:{listener.getsockname()[1]}"

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
            Serving(create_app(registry, store, log=log), listener, graceful=graceful).run(tell)
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
