"""``cache``: what this machine keeps of servers' repositories."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from artifactfs.cli import printing
from artifactfs.cli.context import ADDRESS, Context, pass_context
from artifactfs.errors import NoSpace
from artifactfs.model.names import Address

if TYPE_CHECKING:
    from artifactfs.content.cache import Cache, CacheStatus


@click.group("cache", no_args_is_help=False)
def cache_command() -> None:
    """What this machine keeps of servers' repositories, for all mounts and processes of a user.

    \b
    Example:
      artifactfs cache status
      artifactfs cache warm bike-dataset:latest
      artifactfs --cache-size 200GB mount
    """


@cache_command.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_context
def cache_status(context: Context, *, as_json: bool) -> None:
    """Show what the cache holds, its size, and how often it had what was asked for.

    Counts are over all processes since the cache was made, a running mount's as of a few seconds ago.

    \b
    Example:
      artifactfs cache status --json
    """
    import msgspec

    with _cache(context) as cache:
        status = cache.status()
    if as_json:
        printing.as_json({**msgspec.to_builtins(status), "hit_rate": status.hit_rate})
    else:
        _print(status)


@cache_command.command("warm")
@click.argument("address", type=ADDRESS)
@click.option("--pin", is_flag=True, help="Keep it there, whatever else comes, until: cache clear --pinned.")
@pass_context
def cache_warm(context: Context, address: Address, *, pin: bool) -> None:
    """Bring a version, or a path in it, into the cache, so that it is read without the network.

    \b
    Example:
      artifactfs cache warm bike-dataset:latest --pin
      artifactfs cache warm bike-dataset:v3/images
    """
    from artifactfs.model.tree import size_of
    from artifactfs.transfer import WarmStats, warm

    with context.open_for(address) as repository:
        version = repository.resolve(address)
        name = f"{version.name}/{address.path}" if address.path else version.name
        total = size_of(repository.entry(version, address.path)) if address.path else version.size
        if repository.cache is None:
            printing.note(f"nothing to warm: all of {name} is on this machine, in {repository.location}")
            return
        with printing.Meter(f"warm {name}", total) as meter:

            def show(stats: WarmStats) -> None:
                meter.update(stats.bytes_done, files=stats.files)

            stats = warm(repository, version, address.path, pin=pin, progress=show)
        fetched = repository.reader.bytes_fetched
        status = repository.cache.status()
    printing.note(
        f"{printing.many(stats.files, 'file')}, {printing.size(stats.bytes_done)}: {printing.size(fetched)} fetched"
    )
    if status.trouble:
        raise NoSpace(f"the cache does not keep all of {name}: {status.trouble}")
    if stats.bytes_done > status.limit:
        printing.note(
            f"{name} is larger than the cache ({printing.size(status.limit)}), so a part of it may be gone again: raise --cache-size"
        )


@cache_command.command("clear")
@click.option("--pinned", is_flag=True, help="Delete pinned chunks too.")
@pass_context
def cache_clear(context: Context, *, pinned: bool) -> None:
    """Delete what the cache holds; what is needed again is fetched again.

    Mounts and processes that use it go on. Pinned chunks stay unless --pinned is given.

    \b
    Example:
      artifactfs cache clear
    """
    with _cache(context) as cache:
        freed = cache.clear(pinned=pinned)
        left = cache.status().pinned_bytes
    printing.line(f"freed {printing.size(freed)}")
    if left:
        printing.note(f"{printing.size(left)} of pinned chunks stay; --pinned deletes them too")


@contextmanager
def _cache(context: Context) -> Iterator[Cache]:
    from artifactfs.content.cache import Cache

    cache = Cache(context.settings.cache)
    try:
        yield cache
    finally:
        cache.close()


def _print(status: CacheStatus) -> None:
    size = printing.size
    hit_rate = "nothing was asked yet" if status.hit_rate is None else f"{status.hit_rate:.1%}"
    for name, value in (
        ("directory", status.directory),
        ("size", f"{size(status.bytes)} of {size(status.limit)}"),
        ("chunks", f"{size(status.chunk_bytes)} in {printing.many(status.chunks, 'chunk')}"),
        ("nodes", f"{size(status.node_bytes)} in {printing.many(status.nodes, 'node')}"),
        ("pinned", size(status.pinned_bytes)),
        ("hit rate", f"{hit_rate} ({printing.many(status.hits, 'hit')}, {status.misses:,} missed)"),
        ("fetched", size(status.fetched)),
        ("saved", size(status.saved)),
        ("disk", f"{size(status.free)} free; {size(status.reserve)} of them are left alone"),
        *([("trouble", status.trouble)] if status.trouble else []),
    ):
        printing.line(f"{name:<9}  {printing.shown(value)}")
