"""Run: the process that uses and logs versions, from :func:`init` to its end.

One Run is active in a process at a time. ``init()`` again while one is active returns it when nothing else is asked for (the values
given agree with it), with its configuration updated; otherwise the active one is finished first, and a new one begins.

A process that ``artifactfs run`` started is in a Run already: ``init()`` joins it. Its job type, name and end are then the business of
who started it; configuration is added.

A Run ends with its ``with`` block, with :meth:`Run.finish`, or with the process: failed when an exception, or an exit status other
than 0, ends that. (``sys.exit`` and ``exit()`` are seen; a bare ``raise SystemExit(3)`` is in a block only.) A process that is killed
leaves a Run that reads as crashed two minutes later. Any thread may use a Run; a forked child may log and use artifacts with its
parent's, but not end it.
"""

from __future__ import annotations

import argparse
import atexit
import builtins
import os
import sys
import threading
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
from artifactfs.python import arguments
from artifactfs.python.artifact import Artifact
from artifactfs.python.project import Activity, Project, open_project, set_activity
from artifactfs.python.recorded import RecordedRun
from artifactfs.run import RunLife, describe

UNSPECIFIED: Final = "unspecified"
"""The type of what is logged by its path alone."""

_lock = RLock()
_active: Run | None = None


class Config(MutableMapping[str, Any]):
    """A Run's configuration: a mapping of names to values that JSON holds, as ``config["rate"]`` or ``config.rate``.

    What is set is written at once; changes within a value, such as a list that is appended to, when the Run ends. InvalidInput for
    what JSON cannot hold, Conflict once the Run has ended.
    """

    def __init__(self, values: dict[str, Any], write: Callable[[dict[str, Any]], None]) -> None:
        self.__dict__["_values"] = values
        self.__dict__["_write"] = write
        self.__dict__["_lock"] = RLock()  # what one thread sets is not lost by what another one does

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
        with self.__dict__["_lock"]:
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
        """Set several values at once, from a mapping, an ``argparse.Namespace``, or keywords."""
        given = {**_mapping(values), **more}
        with self.__dict__["_lock"]:
            self.__dict__["_write"]({**self.__dict__["_values"], **given})

    def as_dict(self) -> dict[str, Any]:
        """The values, in a new dict."""
        return dict(self.__dict__["_values"])


class Run(RecordedRun):
    """The active Run: what this process uses and logs, from :func:`init` to its end.

    A ``with`` block ends it: failed when an exception leaves the block. Once it has ended, nothing can be recorded (Conflict).
    """

    def __init__(self, project: Project, record: RunRecord, life: RunLife | None) -> None:
        super().__init__(project, record)
        self._life = life  # None: joined
        self._process = os.getpid()
        self._ended: RunRecord | None = None
        self._leaving: tuple[int | None, bool] = None, False  # the exit code that it is to end with, once it is
        self._saved = check_config(record.config)  # a copy, whose values are not those that may be changed in place
        self._config = Config(dict(record.config), self._write_config)

    @property
    def state(self) -> str:
        """``running`` until it ends, then ``finished`` or ``failed``."""
        return self._ended.state if self._ended is not None else RUNNING

    @property
    def config(self) -> Config:
        """Its configuration, to be read and changed."""
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
        ``name`` (default: ``run-ID-BASENAME``, with the Run's id) with ``type`` (default: ``unspecified``). Nothing is visible before
        all is stored. Raises NotFound, InvalidInput (what cannot be stored; a file that changed after it was added), Conflict (the
        name has another type).
        """
        artifact = self._prepare(artifact_or_path, name, type)
        artifact._commit(self._open("log_artifact"), run=self.id, aliases=aliases, tags=tags)  # noqa: SLF001 - one package
        return artifact

    def log_model(
        self, path: str | os.PathLike[str], name: str | None = None, aliases: Sequence[str] | None = None
    ) -> Artifact:
        """Log a file or directory, as :meth:`log_artifact`, with the type ``model``."""
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

        The version exists once :meth:`finish_artifact` is called, within a day. Aliases are given there. Raises as
        :meth:`log_artifact`, and Conflict when that draft was finished already.
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

        Call it once, when all parts were added. Conflict names paths that parts have with different contents; NotFound says that there
        are no parts, as when it was called before.
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
            raise InvalidInput(
                f"use_artifact takes a name or an Artifact; this is a {artifact_or_name.__class__.__name__}"
            )
        project.repository.registry.add_inputs(self.id, [int(artifact.id)])
        return artifact

    def use_model(self, name: str) -> Path:
        """Use a version of type ``model`` and download it to ``./NAME-vN``; returns its file, when it is one, or that directory."""
        artifact = self.use_artifact(name, type="model")
        return artifact.file() if artifact.file_count == 1 else artifact.download()

    # -- life ------------------------------------------------------------------------------------------------------

    def finish(self, exit_code: int | None = None) -> None:
        """End the Run: finished, or failed when ``exit_code`` is neither None nor 0. One that was joined goes on. Idempotent."""
        arguments.whole("exit_code", exit_code, least=-(2**31))
        if self._ended is not None or os.getpid() != self._process:
            return
        self._leaving = exit_code, True
        unsaid = None
        try:
            if dict(self._config) != self._saved:
                self._write_config(self._config.as_dict())
        except InvalidInput as error:
            unsaid = error  # what cannot be written is no reason to go on for ever
        registry = self._where.repository.registry
        ended = self._life.end(exit_status=exit_code) if self._life is not None else None
        self._ended = ended or registry.run(self.id) or self._record
        with _lock:
            global _active  # noqa: PLW0603 - one Run is active in a process
            if _active is self:
                _active = None
                set_activity(None)
        if unsaid is not None:
            raise InvalidInput(
                f"the run {self.name} has ended with its configuration as last written: {unsaid}"
            ) from unsaid

    def _abandon(self) -> None:
        """Have no more to do with it: it reads as crashed when its time is over."""
        self._ended = self._record
        if self._life is not None:
            self._life.abandon()

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
            raise InvalidInput(f"an Artifact, a path or a URI is logged; this is a {given.__class__.__name__}")
        text = given if isinstance(given, str) and "://" in given else str(arguments.path("artifact_or_path", given))
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
        # Others of the same Run may have written theirs: those who joined it, and forked children.
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
    repository: str | os.PathLike[str] | None = None,
    id: str | None = None,  # noqa: A002 - as users know it
) -> Run:
    """Begin a Run, or take up the one with this ``id`` again.

    ``job_type`` names the step of a pipeline, ``config`` holds the values that it works with: a mapping or an ``argparse.Namespace``.
    ``name`` is for people (default: made of job type and id), ``id`` 1 to 64 letters, digits, ``_`` and ``-`` (default: 16 random
    digits). ``repository`` is a directory, which is made when it is not there, or the URL of a server.

    While a Run is active, it is returned if what is given agrees with it, and ``config`` is added to its own; otherwise it is
    finished, and a new one begins. In a process that ``artifactfs run`` started, that Run is joined: its name, job type and end are
    the business of who started it.

    A Run ends with its ``with`` block, with :meth:`Run.finish`, or with the process: as failed when that ends by an exception or by
    ``sys.exit`` with another status than 0. One whose process is killed reads as crashed two minutes later.

    Raises InvalidInput (an argument that is no name, or not JSON), Unavailable (no server there), Access, Format.
    """
    global _active  # noqa: PLW0603 - one Run is active in a process
    values = check_config(_mapping(config if config is not None else {}))
    if id is not None:
        check_run(arguments.text("id", id))
    for argument, value in (("project", project), ("job_type", job_type), ("name", name)):
        arguments.text_or_none(argument, value)
    where = open_project(arguments.location("repository", repository), project, create=True)
    with _lock:
        active = _active
        if active is not None and active._process == os.getpid():  # noqa: SLF001 - another of this class
            code, leaving = active._leaving  # noqa: SLF001 - as above
            if not leaving and active._where is where and _agrees(active, job_type, name, id):  # noqa: SLF001 - as above
                if values:
                    active.config.update(values)
                return active
            try:
                active.finish(code)
            except ArtifactFSError as failure:
                if not leaving:
                    raise
                # It was tried before, and said. Another Run need not wait for a server that may never come back.
                active._abandon()  # noqa: SLF001 - as above
                warnings.warn(f"the end of the run {active.name} could not be recorded: {failure}", stacklevel=2)
        run = _joined(where, id) or _started(where, job_type, name, id, values)
        if run.joined and values:
            run.config.update(values)
        _active = run
        set_activity(Activity(os.getpid(), where, run.id))
        _watch()
        return run


def finish(exit_code: int | None = None) -> None:
    """End the active Run, as :meth:`Run.finish` does; nothing happens when there is none."""
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
    if record is None:
        warnings.warn(
            f"this process was started in the run {around}, which is not of the project {where.name!r} "
            f"of {where.repository.location}; it has a run of its own",
            stacklevel=3,
        )
        return None
    return Run(where, record, None)


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

    def note(status: Any) -> None:
        if threading.current_thread() is threading.main_thread():  # of another thread it is the end of that alone
            _Ending.status = _status_of(SystemExit(status))

    def on_exit(status: Any = None, /) -> None:
        note(status)
        leave(status)

    def on_quit(quitter: Any, code: Any = None) -> None:
        note(code)
        call(quitter, code)

    sys.excepthook = on_exception
    sys.exit = on_exit  # type: ignore[assignment] # an exit status is told nowhere else
    quitter: Any = type(getattr(builtins, "exit", None))
    if quitter.__module__ == "_sitebuiltins":  # exit() and quit(), as Python's own site module has them
        call = quitter.__call__
        quitter.__call__ = on_quit
    atexit.register(_end)


def _end() -> None:
    if _active is None:
        return
    with suppress(NotFound):
        try:
            code, leaving = _active._leaving  # noqa: SLF001 - of this module
            _active.finish(code if leaving else _Ending.status)
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
    if not given or not isinstance(given, str):
        raise InvalidInput("distributed_id is missing: give a text that all processes which fill this version share")
    return given
