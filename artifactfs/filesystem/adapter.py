"""The file system of fsspec: ``pandas.read_parquet("artifactfs://bike-dataset:latest/day.parquet")`` and the like.

Registered with fsspec by an entry point, so that programs need not import it. Paths are Addresses: ``name:version-or-alias/path``,
with ``project/`` before it for another project; ``name/path`` is in `latest`. The root lists the artifacts. It only translates: what
is read comes through the repository, checked, and from the cache that mounts and commands use.

An alias is looked up once for each operation: a file that is open, a directory that is walked or copied, is of one version
throughout. Instances and their files may be used from any thread, after a fork too. Sent to another process, an instance means the
same repository.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from errno import EINVAL, EISDIR, ENOENT, EROFS
from fnmatch import fnmatchcase
from functools import partial
from glob import has_magic
from typing import Any, Final, NoReturn, cast

from fsspec.callbacks import DEFAULT_CALLBACK
from fsspec.spec import AbstractFileSystem

from artifactfs import config
from artifactfs.errors import InvalidInput
from artifactfs.filesystem.files import ArtifactFile, Content, as_oserror
from artifactfs.filesystem.opened import Place, Versions, find, opened_of, pinned, repository_of, target_of
from artifactfs.model.digest import format_digest
from artifactfs.model.names import parse_address
from artifactfs.model.records import VersionRecord
from artifactfs.model.tree import DirEntry, Entry, FileEntry, LinkEntry, RefEntry
from artifactfs.repository import Repository

RANGES_AT_ONCE: Final = 8
"""Ranges that one call asks of a network at a time; the pool that fetches ahead has connections of its own."""

# What fsspec itself takes from any file system's options.
_FSSPEC_OPTIONS: Final = frozenset({"asynchronous", "listings_expiry_time", "loop", "max_paths", "use_listings_cache"})
_SERIES: Final = re.compile(r"((?:[^/:@]*/)?)([^/:@]*):([^/]*)(.*)", re.DOTALL)


class ArtifactFileSystem(AbstractFileSystem):
    """Versions of a repository's artifacts, read-only.

    Options are those of the command line and have its defaults (environment, configuration file): ``repository`` (a directory, or
    the URL of a server), ``project``, ``cache_dir``, ``cache_size`` (for example "50GB"), ``timeout`` (seconds). Raises InvalidInput
    for what is none of these. All else raises OSError, by kind: FileNotFoundError, PermissionError, EIO for damaged data, EROFS for
    writing.
    """

    protocol = "artifactfs"
    root_marker = ""

    def __init__(
        self,
        *,
        repository: str | None = None,
        project: str | None = None,
        cache_dir: str | None = None,
        cache_size: str | int | None = None,
        timeout: str | float | None = None,
        **fsspec_options: Any,
    ) -> None:
        unknown = sorted(fsspec_options.keys() - _FSSPEC_OPTIONS)
        if unknown:
            raise InvalidInput(
                f"artifactfs:// has no option {unknown[0]!r}; it has repository, project, cache_dir, cache_size and timeout"
            )
        super().__init__(**fsspec_options)
        self._settings = config.load(
            repository=repository,
            project=project,
            cache_dir=cache_dir,
            cache_size=None if cache_size is None else str(cache_size),
            timeout=None if timeout is None else str(timeout),
        )

    def __reduce__(self) -> tuple[Callable[..., ArtifactFileSystem], tuple[dict[str, Any]]]:
        # Where the other process has another directory, environment or configuration, it shall still read the same repository.
        same = {"repository": self._settings.repository, "project": self._settings.project}
        return _instance, ({**self.storage_options, **same},)

    @property
    def fsid(self) -> str:
        """Which repository this is."""
        return f"artifactfs:{self._settings.repository}"

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        stripped = super()._strip_protocol(path)
        return stripped if isinstance(stripped, list) else stripped.lstrip("/")

    # -- looking -----------------------------------------------------------------------------------------------------

    def ls(self, path: str, detail: bool = True, *, versions: Versions | None = None, **_: Any) -> list[Any]:
        """What a directory has; of a file, itself. ``""`` lists the artifacts. ``versions`` is this module's own."""
        path = self._strip_protocol(path)
        with as_oserror():
            found = self._artifacts() if not path else self._list(path, versions)
        return found if detail else [info["name"] for info in found]

    def info(self, path: str, *, versions: Versions | None = None, **_: Any) -> dict[str, Any]:
        """What is known of a file or directory.

        ``type`` is file, directory, link (to a directory, or to nothing) or other (a Reference of a scheme that nobody here reads);
        ``size`` is in bytes, None when not known; ``created`` is when the version was made, in seconds since the epoch. As they apply:
        ``version``, ``digest``, ``executable``, ``destination`` of a link; of a Reference ``uri``, ``checksum``, ``etag``,
        ``reference_version``.
        """
        path = self._strip_protocol(path)
        if not path:
            return {"name": "", "type": "directory", "size": 0}
        with as_oserror():
            repository, place = self._find(path, versions)
            return self._info(repository, path, place.version, place.entry)

    def exists(self, path: str, **kwargs: Any) -> bool:
        """Whether something is there. A repository that cannot be reached is no answer: it raises."""
        try:
            self.info(path, **kwargs)
        except OSError as error:
            if error.errno in {ENOENT, EINVAL}:  # what no path can be is not there either
                return False
            raise
        return True

    def walk(self, path: str, maxdepth: int | None = None, **kwargs: Any) -> Iterator[Any]:
        """As os.walk, within one version. Symlinks to directories are not followed."""
        kwargs.setdefault("versions", {})
        return cast("Iterator[Any]", super().walk(path, maxdepth, **kwargs))

    def glob(self, path: str, maxdepth: int | None = None, **kwargs: Any) -> Any:
        """Paths that match a pattern, which may also be one of versions and aliases: ``bike-dataset:v*/day.parquet``."""
        kwargs.setdefault("versions", {})
        series = _SERIES.fullmatch(self._strip_protocol(path))
        if series is None or not (has_magic(series[2]) or has_magic(series[3])):
            return super().glob(path, maxdepth, **kwargs)
        found: dict[str, Any] = {}
        detail = kwargs.pop("detail", False)
        with as_oserror():
            heads = self._series(series[1], series[2], series[3])
        slash = "/" if path.endswith("/") else ""
        for head in heads:
            found.update(super().glob(f"{head}{series[4]}{slash}", maxdepth, detail=True, **kwargs))
        return found if detail else list(found)

    def du(
        self, path: str, total: bool = True, maxdepth: int | None = None, withdirs: bool = False, **kwargs: Any
    ) -> Any:
        """Bytes below a path, all together or by path. References of which only the URI was recorded count nothing."""
        sizes = super().du(path, total=False, maxdepth=maxdepth, withdirs=withdirs, **kwargs)
        known = {name: size or 0 for name, size in sizes.items()}
        return sum(known.values()) if total else known

    def ukey(self, path: str) -> str:
        """A text that is the same as long as the content is."""
        info = self.info(path)
        return str(info.get("digest") or super().ukey(path))

    def created(self, path: str) -> datetime:
        """When the version was made."""
        return datetime.fromtimestamp(self.info(path)["created"], UTC)

    modified = created  # a version never changes

    # -- reading -----------------------------------------------------------------------------------------------------

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        *,
        versions: Versions | None = None,
        **_: Any,  # how fsspec's own files shall buffer and commit
    ) -> ArtifactFile:
        if mode != "rb":
            self._refuse()
        with as_oserror(path):
            repository, place = self._find(path, versions)
            details = self._info(repository, path, place.version, place.entry)
            connect = partial(self._content, path, place.entry, parse_address(path).project)
            return ArtifactFile(self, pinned(parse_address(path), place.version), details, connect, buffer=block_size)

    def cat_file(
        self,
        path: str,
        start: int | None = None,
        end: int | None = None,
        *,
        versions: Versions | None = None,
        **_: Any,
    ) -> bytes:
        """A file's bytes, or those from ``start`` to before ``end``, which count from its end when negative."""
        path = self._strip_protocol(path)
        with as_oserror(path):
            place = self._find(path, versions)[1]
            return _range(self._content(path, place.entry, parse_address(path).project), start, end)

    def cat(self, path: Any, recursive: bool = False, on_error: str = "raise", **kwargs: Any) -> Any:
        """Contents of files, by path when several are meant."""
        kwargs.setdefault("versions", {})
        return super().cat(path, recursive, on_error, **kwargs)

    def cat_ranges(
        self,
        paths: list[str],
        starts: int | list[int | None] | None,
        ends: int | list[int | None] | None,
        max_gap: int | None = None,
        on_error: str = "return",
        **kwargs: Any,
    ) -> list[Any]:
        """Ranges of files, in the order asked for, several at a time. ``max_gap`` is not needed: what is near is fetched once."""
        del max_gap
        if not isinstance(paths, list):
            raise InvalidInput(f"paths must be a list of paths, not {type(paths).__name__}")
        first = starts if isinstance(starts, list) else [starts] * len(paths)
        last = ends if isinstance(ends, list) else [ends] * len(paths)
        if not len(paths) == len(first) == len(last):
            raise InvalidInput(
                f"{len(paths)} paths have {len(first)} starts and {len(last)} ends; give one of each a path"
            )
        kwargs.setdefault("versions", {})
        if not paths:
            return []

        def read(path: str, start: int | None, end: int | None) -> Any:
            try:
                return self.cat_file(path, start, end, **kwargs)
            except OSError as error:
                if on_error == "return":
                    return error
                raise

        with ThreadPoolExecutor(min(RANGES_AT_ONCE, len(paths)), "artifactfs-ranges") as pool:
            return list(pool.map(read, paths, first, last))

    def get(
        self, rpath: Any, lpath: Any, recursive: bool = False, callback: Any = DEFAULT_CALLBACK, **kwargs: Any
    ) -> None:
        """Copy files, or with ``recursive`` directories, to the local disk."""
        kwargs.setdefault("versions", {})
        super().get(rpath, lpath, recursive, callback, whole=recursive, **kwargs)

    def get_file(
        self,
        rpath: str,
        lpath: Any = None,
        *args: Any,
        versions: Versions | None = None,
        whole: bool = False,
        **kwargs: Any,
    ) -> None:
        """Copy one file to the local disk; of a directory, make an empty one. ``whole``: as a part of one that is copied."""
        rpath = self._strip_protocol(rpath)
        with as_oserror(rpath):
            repository, place = self._find(rpath, versions)
        version, entry = place.version, place.entry
        if whole and isinstance(entry, RefEntry) and not repository.references.knows(entry.uri):
            warnings.warn(f"{rpath} -> {entry.uri} is left out, as nothing here reads its scheme", stacklevel=3)
            return
        super().get_file(pinned(parse_address(rpath), version), lpath, *args, **kwargs)

    # -- writing -----------------------------------------------------------------------------------------------------

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise OSError(
            EROFS,
            "artifactfs:// is read-only, as versions never change; log a new version with `artifactfs put`, "
            "artifactfs.init().log_artifact(…), or in the staging directory of a mount",
        )

    mkdir = makedirs = rmdir = rm = rm_file = _rm = cp_file = copy = mv = _refuse
    put = put_file = pipe = pipe_file = touch = write_text = start_transaction = _refuse

    # -- within ------------------------------------------------------------------------------------------------------

    def _find(self, path: str, versions: Versions | None) -> tuple[Repository, Place]:
        address = parse_address(path)
        repository = repository_of(self._settings, address.project)
        return repository, find(repository, address, {} if versions is None else versions)

    def _content(self, path: str, entry: Entry, project: str | None) -> Content:
        """An entry's bytes, read by this process."""
        if isinstance(entry, FileEntry | RefEntry):
            return opened_of(self._settings, project).read(entry)
        raise IsADirectoryError(EISDIR, f"{path} is a directory; name a file in it")

    def _artifacts(self) -> list[dict[str, Any]]:
        records = repository_of(self._settings).registry.artifacts()
        return [{"name": record.name, "type": "directory", "size": 0} for record in records]

    def _list(self, path: str, versions: Versions | None) -> list[dict[str, Any]]:
        repository, place = self._find(path, versions)
        if not isinstance(place.entry, DirEntry):
            return [self._info(repository, path, place.version, place.entry)]
        inside = parse_address(path).path
        found = []
        for _, _, entry in repository.trees.scan(place.entry.digest):
            name = f"{path}/{entry.name}"
            known = self._info(repository, name, place.version, entry)
            if isinstance(entry, LinkEntry):
                target = target_of(repository, place.version, f"{inside}/{entry.name}".lstrip("/"))
                if isinstance(target, FileEntry | RefEntry):
                    known = {**self._info(repository, name, place.version, target), "destination": entry.target}
            found.append(known)
        return found

    def _info(self, repository: Repository, path: str, version: VersionRecord, entry: Entry) -> dict[str, Any]:
        info: dict[str, Any] = {"name": path, "version": version.name, "created": version.created / 1e9}
        if isinstance(entry, DirEntry):
            return {**info, "type": "directory", "size": 0, "digest": format_digest(entry.digest)}
        if isinstance(entry, FileEntry):
            executable = entry.executable
            return {
                **info,
                "type": "file",
                "size": entry.size,
                "digest": format_digest(entry.digest),
                "executable": executable,
            }
        if isinstance(entry, LinkEntry):
            return {**info, "type": "link", "size": len(entry.target.encode()), "destination": entry.target}
        known = repository.references.knows(entry.uri)
        kind = {"type": "file" if known else "other", "size": entry.size, "uri": entry.uri}
        told = {"checksum": entry.checksum, "etag": entry.etag, "reference_version": entry.version}
        return {**info, **kind, **{key: value for key, value in told.items() if value}}

    def _series(self, project: str, names: str, selectors: str) -> list[str]:
        """``project/name:alias`` and ``project/name:vN`` that match patterns."""
        registry = repository_of(self._settings, project.rstrip("/")).registry
        matching = (record.name for record in registry.artifacts() if fnmatchcase(record.name, names))
        return [
            f"{project}{name}:{selector}"
            for name in matching
            for version in registry.versions(name)
            for selector in (f"v{version.number}", *version.aliases)
            if fnmatchcase(selector, selectors)
        ]


def _range(content: Content, start: int | None, end: int | None) -> bytes:
    begin, stop, _ = slice(start, end).indices(content.size)
    return bytes(content.read(begin, max(0, stop - begin)))


def _instance(options: dict[str, Any]) -> ArtifactFileSystem:
    return ArtifactFileSystem(**options)
