"""Run: the process that uses and logs versions, from :func:`init` to its end.

One Run is active in a process at a time. ``init()`` again while one is active returns it when nothing else is asked for (the values
given agree with it), with its configuration updated; otherwise the active one is finished first, and a new one begins.

A process that ``artifactfs run`` started is in a Run already: ``init()`` joins it. Its job type, name and end are then the business of
who started it; configuration is added.

A Run ends with its ``with`` block, with :meth:`Run.finish`, or with the process: failed when an exception, or an exit status other
than 0, ends that. A process that is killed leaves a Run that reads as crashed two minutes later. Any thread may use a Run; a forked
child may log and use artifacts with its parent's, but not end it.
"""

from __future__ import annotations

import argparse
import atexit
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import RLock
from types import TracebackType
from typing import Any, Final, Self

from artifactfs import config as configuration
from artifactfs.ancestry import run_of
from artifactfs.errors import ArtifactFSError, Conflict, InvalidInput, NotFound
from artifactfs.model.lineage import RUNNING, RunRecord
from artifactfs.model.names import check_config, check_run, parse_address, suggest_name
from artifactfs.python.artifact import Artifact
from artifactfs.python.project import Activity, Project, open_project, set_activity
from artifactfs.python.recorded import RecordedRun
from artifactfs.run import RunLife, describe

UNSPECIFIED: Final = "unspecified"
"""The type of what is logged by its path alone."""

_lock = RLock()
_active: Run | None = None


class Config(MutableMapping[str, Any]):
    """A Run's configuration: ``config["lr"]`` or ``config.lr``. What is set is written at once; changes within a value, at the end."""

    def __init__(self, values: dict[str, Any], write: Callable[[dict[str, Any]], None]) -> None:
        self.__dict__["_values"] = values
        self.__dict__["_write"] = write

    def __repr__(self) -> str:
        return repr(self.__dict__["_values"])

    def __getitem__(self, key: str) -> Any:
        return self.__dict__["_values"][key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.__dict__["_values"])

    def __len__(self) -> int:
        return len(self.__dict__["_values"])

    def __setitem__(self, key: str, value: Any) -> None:
        self.update({key: value})

    def __delitem__(self, key: str) -> None:
        values = dict(self.__dict__["_values"])
        del values[key]
        self.__dict__["_write"](values)

    def __getattr__(self, key: str) -> Any:
        try:
            return self.__dict__.get("_values", {})[key]
        except KeyError:
            known = ", ".join(self.__dict__.get("_values", ())) or "nothing"
            raise AttributeError(f"the configuration has no {key!r}; it has {known}") from None

    def __setattr__(self, key: str, value: Any) -> None:
        self.update({key: value})

    def __delattr__(self, key: str) -> None:
        del self[key]

    def update(self, values: Any = (), /, **more: Any) -> None:
        """Set several values at once. ``values`` may be an ``argparse.Namespace``. InvalidInput for what JSON cannot hold."""
        self.__dict__["_write"]({**self.__dict__["_values"], **_mapping(values), **more})

    def as_dict(self) -> dict[str, Any]:
        """The values, in a dict of its own."""
        return dict(self.__dict__["_values"])


class Run(RecordedRun):
    """The active Run. Made by :func:`init`; a context manager."""

    def __init__(self, project: Project, record: RunRecord, life: RunLife | None) -> None:
        super().__init__(project, record)
        self._life = life  # None: joined
        self._process = os.getpid()
        self._ended: RunRecord | None = None
        self._saved = dict(record.config)
        self._config = Config(dict(record.config), self._write_config)

    @property
    def state(self) -> str:
        """``running`` until it ends, then ``finished`` or ``failed``."""
        return self._ended.state if self._ended is not None else RUNNING

    @property
    def config(self) -> Config:
        """Its configuration."""
        return self._config

    @property
    def joined(self) -> bool:
        """Whether the Run was started, and will be ended, by somebody else."""
        return self._life is None

    # -- outputs ---------------------------------------------------------------------------------------------------

    def log_artifact(
        self,
        artifact_or_path: Artifact | str | os.PathLike[str],
        name: str | None = None,
        type: str | None = None,  # noqa: A002 - the word of the vocabulary
        aliases: Sequence[str] | None = None,
        tags: Sequence[str] | None = None,
    ) -> Artifact:
        """Store an Artifact as the next version, or find the one with the same contents, and record it as an output; returns it.

        `latest` moves to it, and ``aliases``. A path or URI may be given instead: a file, a directory's contents or a reference, under
        ``name`` (default: made of the Run's id and the base name) with ``type`` (default: unspecified). Nothing is visible before all
        is stored. Raises InvalidInput, NotFound, Conflict (the name has another type), and as the repository does.
        """
        artifact = self._prepare(artifact_or_path, name, type)
        artifact._commit(self._open("log_artifact"), run=self.id, aliases=aliases, tags=tags)  # noqa: SLF001 - one package
        return artifact

    def log_model(
        self, path: str | os.PathLike[str], name: str | None = None, aliases: Sequence[str] | None = None
    ) -> Artifact:
        """As :meth:`log_artifact`, with the type ``model``."""
        return self.log_artifact(path, name, "model", aliases)

    def upsert_artifact(
        self,
        artifact_or_path: Artifact | str | os.PathLike[str],
        name: str | None = None,
        type: str | None = None,  # noqa: A002 - as above
        aliases: Sequence[str] | None = None,
        distributed_id: str | None = None,
    ) -> Artifact:
        """Store an Artifact as a part of a version that several processes fill: those that give the same name and ``distributed_id``.

        The version exists once :meth:`finish_artifact` is called, within a day. Aliases are given there.
        """
        if aliases:
            raise InvalidInput(f"aliases={list(aliases)!r} belong to the whole version: give them to finish_artifact")
        artifact = self._prepare(artifact_or_path, name, type)
        artifact._add_part(self._open("upsert_artifact"), _distributed(distributed_id))  # noqa: SLF001 - one package
        return artifact

    def finish_artifact(
        self,
        artifact_or_path: Artifact | str | os.PathLike[str],
        name: str | None = None,
        type: str | None = None,  # noqa: A002 - as above
        aliases: Sequence[str] | None = None,
        distributed_id: str | None = None,
    ) -> Artifact:
        """Make a version of all parts, and of what this Artifact holds itself, and record it as an output; returns it.

        Call it once, when all parts were added. Conflict names paths that parts have with different contents.
        """
        artifact = self._prepare(artifact_or_path, name, type)
        project = self._open("finish_artifact")
        artifact._commit(project, run=self.id, aliases=aliases, draft=_distributed(distributed_id))  # noqa: SLF001 - as above
        return artifact

    # -- inputs ----------------------------------------------------------------------------------------------------

    def use_artifact(self, artifact_or_name: Artifact | str, type: str | None = None) -> Artifact:  # noqa: A002 - as above
        """Find a version, record it as an input, and return it.

        A name is ``name``, ``name:alias``, ``name:v3`` or ``name@blake3:…``, also with ``project/`` before it. An Artifact that was
        not logged finds the version with the same contents, or makes it: once, whoever and however many do so. ``type``, when given,
        must be that of the version (Conflict). NotFound says what is there instead.
        """
        project = self._open("use_artifact")
        if isinstance(artifact_or_name, Artifact):
            artifact = artifact_or_name
            _check_type(artifact, type)
            if artifact.is_draft():
                artifact._commit(project, run=self.id, find=True)  # noqa: SLF001 - one package
                return artifact
            if artifact.project != project.name or not artifact._where.repository.is_same(project.repository):  # noqa: SLF001
                raise InvalidInput(
                    f"{artifact.qualified_name} is not in the project {project.name!r} of this run, and lineage stays within a project"
                )
        elif isinstance(artifact_or_name, str):
            address = parse_address(artifact_or_name)
            project.refuse_other(address)
            if address.path:
                raise InvalidInput(
                    f"use_artifact({artifact_or_name!r}) names a path; use the version, then get_path({address.path!r})"
                )
            artifact = Artifact._of(project, project.repository.resolve(address))  # noqa: SLF001 - one package
            _check_type(artifact, type)
        else:
            raise InvalidInput(f"use_artifact takes a name or an Artifact, not a {artifact_or_name.__class__.__name__}")
        project.repository.registry.add_inputs(self.id, [int(artifact.id)])
        return artifact

    def use_model(self, name: str) -> Path:
        """Use a version of type ``model`` and download it; returns its file, when it is one, or its directory."""
        artifact = self.use_artifact(name, type="model")
        return artifact.file() if artifact.file_count == 1 else artifact.download()

    # -- life ------------------------------------------------------------------------------------------------------

    def finish(self, exit_code: int | None = None) -> None:
        """End the Run: finished, or failed when ``exit_code`` is not 0. One that was joined does not end. Idempotent."""
        if self._ended is not None or os.getpid() != self._process:
            return
        with _lock:
            global _active  # noqa: PLW0603 - one Run is active in a process
            if _active is self:
                _active = None
                set_activity(None)
        if dict(self._config) != self._saved:
            self._write_config(self._config.as_dict())
        registry = self._where.repository.registry
        if self._life is not None:
            self._ended = self._life.end(exit_status=exit_code)
        self._ended = self._ended or registry.run(self.id) or self._record

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.finish()
            return
        try:
            self.finish(exit_code=_status_of(error))
        except ArtifactFSError as failure:
            # What happened in the block is what the user has to hear of.
            warnings.warn(f"the end of the run {self.name} could not be recorded: {failure}", stacklevel=2)

    def _open(self, what: str) -> Project:
        if self._ended is not None:
            raise Conflict(f"the run {self.name} has ended, so {what} cannot be recorded; begin another with init()")
        _Ending.status = None  # an exit that somebody caught was none
        return self._where

    def _prepare(self, given: Artifact | str | os.PathLike[str], name: str | None, kind: str | None) -> Artifact:
        if isinstance(given, Artifact):
            if name is not None and name != given.collection:
                raise InvalidInput(f"name={name!r} is not the name of the artifact, {given.collection!r}; leave it out")
            _check_type(given, kind)
            return given
        if not isinstance(given, str | os.PathLike):
            raise InvalidInput(f"an Artifact, a path or a URI is logged, not a {given.__class__.__name__}")
        text = os.fspath(given)
        last = text.rstrip("/").rpartition("/")[2]
        artifact = Artifact(name or f"run-{self.id}-{suggest_name(last) or 'files'}"[:128], kind or UNSPECIFIED)
        if "://" in text:
            artifact.add_reference(text)
        elif Path(text).is_dir():
            artifact.add_dir(text)
        else:
            artifact.add_file(text)
        return artifact

    def _write_config(self, values: dict[str, Any]) -> None:
        checked = check_config(values)
        if self._ended is not None:
            raise Conflict(f"the run {self.name} has ended, so its configuration stays as it is")
        registry = self._where.repository.registry
        if self._life is None:
            # Others of the same Run may have written theirs.
            found = registry.run(self.id)
            gone = self._saved.keys() - checked.keys()
            mine = {key: value for key, value in checked.items() if self._saved.get(key, _ABSENT) != value}
            checked = {
                **{key: value for key, value in (found.config if found else {}).items() if key not in gone},
                **mine,
            }
        registry.update_run(self.id, config=checked)
        self._saved = check_config(checked)
        held = self._config.__dict__["_values"]
        held.clear()
        held.update(checked)


_ABSENT: Final = object()


def init(
    project: str | None = None,
    job_type: str | None = None,
    name: str | None = None,
    config: Any = None,
    *,
    repository: str | None = None,
    id: str | None = None,  # noqa: A002 - as users know it
) -> Run:
    """Begin a Run, or take up the one with this ``id`` again; see the module on a second call and on joining.

    ``repository`` (a directory, or the URL of a server) and ``project`` are as on the command line: from the environment or the
    configuration file, unless given. ``job_type`` names the step of a pipeline, ``config`` holds the values it works with: a mapping
    or an ``argparse.Namespace``. Raises InvalidInput, and as the repository does.
    """
    global _active  # noqa: PLW0603 - one Run is active in a process
    values = check_config(_mapping(config if config is not None else {}))
    if id is not None:
        check_run(id)
    where = open_project(repository, project, create=True)
    with _lock:
        active = _active
        if active is not None and active._process == os.getpid():  # noqa: SLF001 - another of this class
            if active._where is where and _agrees(active, job_type, name, id):  # noqa: SLF001 - as above
                if values:
                    active.config.update(values)
                return active
            active.finish()
        run = _joined(where, id) or _started(where, job_type, name, id, values)
        if run.joined and values:
            run.config.update(values)
        _active = run
        set_activity(Activity(os.getpid(), where, run.id))
        _watch()
        return run


def finish(exit_code: int | None = None) -> None:
    """End the active Run, as :meth:`Run.finish`; nothing happens when there is none."""
    if _active is not None:
        _active.finish(exit_code)


def _agrees(active: Run, job_type: str | None, name: str | None, identity: str | None) -> bool:
    wanted = ((job_type, active.job_type), (name, active.name), (identity, active.id))
    return active.joined or all(given is None or given == present for given, present in wanted)


def _joined(where: Project, identity: str | None) -> Run | None:
    """The Run that this process was started in, if it is one of this project and no other is asked for."""
    around = configuration.joined_run() or run_of(os.getpid())
    if around is None or (identity is not None and identity != around):
        return None
    record = where.repository.registry.run(around)
    return Run(where, record, None) if record is not None else None


def _started(
    where: Project, job_type: str | None, name: str | None, identity: str | None, values: dict[str, Any]
) -> Run:
    command = configuration.command_line()
    new = describe(run=identity, name=name, job_type=job_type, config=values, command=command)
    life = RunLife(where.repository.registry, new)
    run = Run(where, life.record, life)
    missing = {key: value for key, value in values.items() if life.record.config.get(key, _ABSENT) != value}
    if missing:  # it was taken up again, and keeps what it had
        run.config.update(missing)
    return run


def _after_fork() -> None:
    global _lock  # noqa: PLW0603 - another thread of the parent may have held it
    _lock = RLock()


os.register_at_fork(after_in_child=_after_fork)


# -- the end of the process ----------------------------------------------------------------------------------------------


class _Ending:
    """What is known of how the process ends."""

    watched = False
    status: int | None = None


def _watch() -> None:
    """From the first Run on: an exception that nobody catches, or an exit status, fails the Run that is active in the end."""
    if _Ending.watched:
        return
    _Ending.watched = True
    excepthook, leave = sys.excepthook, sys.exit

    def on_exception(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        _Ending.status = 1
        excepthook(kind, error, traceback)

    def on_exit(status: Any = None, /) -> None:
        _Ending.status = _status_of(SystemExit(status))
        leave(status)

    sys.excepthook = on_exception
    sys.exit = on_exit  # type: ignore[assignment] # an exit status is told nowhere else
    atexit.register(_end)


def _end() -> None:
    if _active is None:
        return
    with suppress(NotFound):
        try:
            _active.finish(_Ending.status)
        except ArtifactFSError as failure:
            warnings.warn(f"the end of the run {_active.name} could not be recorded: {failure}", stacklevel=1)


def _status_of(error: BaseException) -> int:
    """The exit status that an exception ends a process with."""
    if not isinstance(error, SystemExit):
        return 1
    if error.code is None:
        return 0
    return error.code if isinstance(error.code, int) else 1


def _mapping(values: Any) -> dict[str, Any]:
    if isinstance(values, argparse.Namespace):
        return dict(vars(values))
    if isinstance(values, Mapping):
        return dict(values)
    try:
        return dict(values)
    except (TypeError, ValueError):
        raise InvalidInput(f"config is a {values.__class__.__name__}; give a dict, or what argparse returns") from None


def _check_type(artifact: Artifact, wanted: str | None) -> None:
    if wanted is not None and wanted != artifact.type:
        raise Conflict(
            f"{artifact.name} has the type {artifact.type!r}, not type={wanted!r}; give that, or leave it out"
        )


def _distributed(given: str | None) -> str:
    if not given:
        raise InvalidInput("distributed_id is missing: give a text that all processes which fill this version share")
    return given
