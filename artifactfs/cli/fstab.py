"""``mount.fuse.artifactfs``: what mount(8) and ``/etc/fstab`` call, translated to ``artifactfs mount``.

Lines of ``/etc/fstab``, with ``/sbin/mount.fuse.artifactfs`` linked to the installed script::

    /data/artifacts   /mnt/artifacts  fuse.artifactfs  ro,allow_other,project=bikes,nofail  0  0
    http://host:7420  /mnt/artifacts  fuse.artifactfs  ro,allow_other,cache_size=50GB,_netdev,nofail  0  0

mount(8) calls it with ``SOURCE MOUNTPOINT [-sfnv] [-N namespace] [-o options] [-t type]``.
"""

from __future__ import annotations

import sys
from typing import Final

from artifactfs.errors import InvalidInput

_FLAGS: Final = {"ro": "--read-only", "allow_other": "--allow-other", "share_references": "--share-references"}
_VALUES: Final = {"pin": "--pin", "binding": "--binding", "staging_size": "--staging-size"}
_OF_ALL_COMMANDS: Final = {
    "project": "--project",
    "cache_dir": "--cache-dir",
    "cache_size": "--cache-size",
    "timeout": "--timeout",
}
# Options of mount(8) itself, of systemd.mount(5), and those that every FUSE mount has anyway.
_IGNORED: Final = frozenset(
    {
        "defaults",
        "rw",
        "auto",
        "noauto",
        "user",
        "users",
        "nouser",
        "nofail",
        "_netdev",
        "nosuid",
        "nodev",
        "dev",
        "suid",
    }
    | {"exec", "async", "noatime", "relatime", "default_permissions", "fsname", "subtype", "comment"}
)


def translate(arguments: list[str]) -> list[str]:
    """The command line of ``artifactfs`` for that of a mount helper. Raises InvalidInput."""
    places: list[str] = []
    options: list[str] = []
    words = iter(arguments)
    for word in words:
        if word == "-o":
            options += next(words, "").split(",")
        elif word in {"-t", "-N"}:
            next(words, None)
        elif not word.startswith("-"):
            places.append(word)
    if len(places) != 2:
        raise InvalidInput("expected: mount.fuse.artifactfs REPOSITORY MOUNTPOINT [-o OPTIONS]; mount(8) calls it")
    before = ["--repository", places[0]]
    after: list[str] = []
    for option in filter(None, options):
        key, _, value = option.partition("=")
        if key in _FLAGS:
            after.append(_FLAGS[key])
        elif key in _VALUES:
            # NAME=vN holds an "=" itself; it is whatever follows the first one.
            after += [_VALUES[key], value]
        elif key in _OF_ALL_COMMANDS:
            before += [_OF_ALL_COMMANDS[key], value]
        elif key not in _IGNORED and not key.startswith("x-"):
            known = ", ".join(sorted([*_FLAGS, *_VALUES, *_OF_ALL_COMMANDS]))
            raise InvalidInput(f"unknown mount option {option!r}; there are {known}, besides those of mount(8)")
    return [*before, "mount", places[1], *after]


def main() -> None:
    """Entry point of the console script."""
    from artifactfs.cli.main import fail, guarded

    try:
        arguments = translate(sys.argv[1:])
    except InvalidInput as error:
        sys.exit(fail(str(error), 2))
    sys.exit(guarded(arguments))
