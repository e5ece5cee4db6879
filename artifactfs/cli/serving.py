"""``serve``: the repository for other machines, over HTTP."""

from __future__ import annotations

import resource
import socket
import sys
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from artifactfs.cli import printing
from artifactfs.cli.context import Context, pass_context, read_span
from artifactfs.errors import Access, InvalidInput, Unavailable

if TYPE_CHECKING:
    from artifactfs.registry.sql import SQLRegistry
    from artifactfs.repository import Repository


@click.command("serve")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option("--port", type=click.IntRange(0, 65535), default=7420, show_default=True, help="Port; 0 is any free one.")
@click.option(
    "--registry",
    metavar="URL",
    envvar="ARTIFACTFS_REGISTRY",
    show_envvar=True,
    help="PostgreSQL database that holds everything but packs: postgresql://USER@HOST/DATABASE.",
)
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
    "--store",
    "store_url",
    envvar="ARTIFACTFS_STORE",
    metavar="URL",
    help="Keep the packs in a bucket: s3://bucket/prefix, gs://… or az://…; remembered from the first time on.",
)
@click.option(
    "--store-moved", is_flag=True, help="The packs were copied to --store (`local`: to the directory) on purpose."
)
@click.option(
    "--signed-url-seconds",
    type=click.IntRange(1, 604_800),
    default=900,
    show_default=True,
    metavar="SECONDS",
    help="Life of the URLs by which clients read from the bucket.",
)
@click.option("--no-signed-urls", is_flag=True, help="Clients read through this server, not from the bucket.")
@click.option(
    "--graceful",
    type=click.IntRange(0, 3600),
    default=30,
    show_default=True,
    metavar="SECONDS",
    help="How long requests may take to finish once it is told to stop.",
)
@click.option(
    "--upkeep-interval",
    default="1h",
    show_default=True,
    metavar="SPAN",
    help="How often retention rules are applied: 30m, 12h, 1d, or never.",
)
@click.option(
    "--gc-interval",
    default="1d",
    show_default=True,
    metavar="SPAN",
    help="How often the garbage of all projects is collected: 12h, 1d, 7d, or never.",
)
@click.option(
    "--scrub-days",
    type=click.FloatRange(0, 3650),
    default=30,
    show_default=True,
    metavar="DAYS",
    help="Read and check everything that is stored once in so many days; 0: never.",
)
@click.option(
    "--scrub-rate",
    default="50MB",
    show_default=True,
    metavar="SIZE",
    help="Bytes that this reads a second at most.",
)
@click.option("--no-access-log", is_flag=True, help="Log failures only, not every request.")
@pass_context
def serve_command(
    context: Context,
    *,
    host: str,
    port: int,
    registry: str | None,
    allow_unauthenticated: bool,
    require_tokens: bool,
    tls_cert: Path | None,
    tls_key: Path | None,
    allow_plain_http: bool,
    store_url: str | None,
    store_moved: bool,
    signed_url_seconds: int,
    no_signed_urls: bool,
    graceful: int,
    upkeep_interval: str,
    gc_interval: str,
    scrub_days: float,
    scrub_rate: str,
    no_access_log: bool,
) -> None:
    """Serve the repository over HTTP until interrupted (SIGINT, SIGTERM).

    Prints its address once it is ready, and then logs each request as a line of JSON on stderr. Once a token was made (artifactfs
    token create) nobody comes in without one. Beyond this machine it listens with tokens and TLS only, unless it is told otherwise.

    With --registry the database makes its tables at the first start, and brings those of an older release to this one's; any number of
    servers may use it at once, all with the same store. Its password is never in the URL: it stands in ~/.pgpass or PGPASSWORD.

    \b
    Example:
      artifactfs serve
      artifactfs serve --host 0.0.0.0 --tls-cert server.pem --tls-key server.key
      artifactfs serve --registry postgresql://artifactfs@db.example.com/artifactfs --store s3://bucket/prefix
      artifactfs --repository http://127.0.0.1:7420 ls
    """
    from artifactfs.config import parse_size
    from artifactfs.directory import SPOOL, STORE
    from artifactfs.placing import Ground, open_stores, open_stores_at
    from artifactfs.registry.opening import check_database

    try:
        from artifactfs.server.app import create_app
        from artifactfs.server.certificates import Certificate, check_certificate
        from artifactfs.server.log import Log
        from artifactfs.server.scrubbing import Scrubbing
        from artifactfs.server.serving import Serving, is_loopback, listen, url_of
    except ImportError as error:
        raise Unavailable(
            f"serve needs packages that are not installed ({error.name}); pip install 'artifactfs[server]'"
        ) from error

    rate = parse_size(scrub_rate)
    if rate < 1:
        raise InvalidInput("--scrub-rate is bytes a second, for example 50MB; --scrub-days 0 never scrubs")
    location = context.settings.repository
    if "://" in location and not location.startswith("file://"):
        raise InvalidInput(
            f"serve needs a repository in a directory, not {location}; give one: artifactfs --repository DIR serve"
        )
    upkeep = _interval("--upkeep-interval", upkeep_interval)
    collecting = _interval("--gc-interval", gc_interval)
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
    if registry is not None:
        check_database(registry)
    # First, so that a port that is in use makes no repository.
    with closing(listen(host, port)) as listener, ExitStack() as stack:
        repository = stack.enter_context(context.open(create=True))
        own, where = _registry_of(repository), repository.location
        beside_own = own
        beside: Path | None = repository.disk / STORE
        make = f"artifactfs --repository {where} token create"
        if registry is not None:
            own = stack.enter_context(closing(_database(registry, own, context)))
            make = "artifactfs token create --registry URL"
            where = str(own)
            # What is made by default on each machine would be another one's empty directory.
            beside = None if context.settings.repository_is_default else beside
        ground = Ground(beside, repository.disk / SPOOL, context.settings.seconds)
        # Asked for once, before anybody is told that it serves: what is wrong with the address or the keys is seen here.
        if store_url:
            stores = open_stores_at(own, store_url, ground, moved=store_moved)
        elif store_moved:
            raise InvalidInput("--store-moved says that the packs are elsewhere now; say where with --store")
        else:
            stores = open_stores(own, ground)
            stores.check()
        if own is not beside_own and stores.local:
            beside_own.record_other_registry(where)
        if require_tokens and not loopback and not own.tokens.exist():
            raise Access(
                f"{host} can be reached from other machines, and there is no token yet, so that nobody could come in; make the first: "
                f"{make} --role admin --all-projects"
            )
        url = url_of(listener, tls=certificate is not None)
        reached = url if loopback else f"{urlsplit(url).scheme}://{socket.gethostname()}:{listener.getsockname()[1]}"

        def tell() -> None:
            printing.line(f"serving {where} at {url}")
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
                own,
                stores,
                log=log,
                require_tokens=require_tokens,
                signed=None if no_signed_urls else signed_url_seconds,
                hosts={"localhost", host} if loopback and not allow_unauthenticated else None,
                upkeep_seconds=upkeep,
            )
            scrubbing = Scrubbing(own, stores, days=scrub_days, rate=rate, log=log, metrics=app.state.service.metrics)
            try:
                if scrub_days:
                    scrubbing.start()
                if collecting:
                    app.state.service.collections.schedule(collecting, log)
                Serving(app, listener, graceful=graceful, certificate=certificate).run(tell)
            finally:
                scrubbing.stop()
        finally:
            log.close()
            stores.close()


def _interval(option: str, words: str) -> float:
    seconds = 0 if words == "never" else read_span(words)
    if seconds is None:
        raise InvalidInput(f"not a span of time: {words!r}; give {option} as 30m, 12h, 1d, or never")
    return seconds


def _registry_of(repository: Repository) -> SQLRegistry:
    from artifactfs.registry.sql import SQLRegistry

    registry = repository.registry
    assert isinstance(registry, SQLRegistry)  # noqa: S101 - of a directory
    return registry


def _database(url: str, own: SQLRegistry, context: Context) -> SQLRegistry:
    """The registry in a database, beside which the repository's directory holds packs, or what is on its way to a bucket."""
    from artifactfs.keys import ProjectKeys
    from artifactfs.registry.opening import open_registry

    if own.pack_totals()[0]:
        raise InvalidInput(
            f"{context.settings.repository} has a registry of its own with versions in it, and two registries cannot share one store; "
            "give --registry with an empty --repository, and bring these there with: artifactfs copy"
        )
    settings = context.settings
    return open_registry(url, project=settings.project, create=True, keys=ProjectKeys(settings.credentials))


def _write(line: str) -> None:
    sys.stderr.write(line)
    sys.stderr.flush()
