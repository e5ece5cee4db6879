"""Api: what is in a project, without a Run.

Any thread. Nothing that is read through it becomes an input of a Run.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Self

from artifactfs import config
from artifactfs.errors import Conflict, InvalidInput, NotFound
from artifactfs.model.names import Address, check_name, check_tag, check_type, parse_address
from artifactfs.model.query import Query, parse_condition
from artifactfs.model.records import ArtifactRecord
from artifactfs.python import arguments
from artifactfs.python.artifact import Artifact, instant
from artifactfs.python.project import Project, open_project
from artifactfs.python.recorded import RecordedRun


class ArtifactType:
    """All artifacts of a type."""

    def __init__(self, project: Project, name: str) -> None:
        self._where = project
        self._name = name

    def __repr__(self) -> str:
        return f"<ArtifactType {self.name}>"

    @property
    def name(self) -> str:
        """The type: a word such as ``dataset``, ``model`` or ``result``."""
        return self._name

    def collections(self) -> list[ArtifactCollection]:
        """Its artifacts, by name."""
        found = self._where.repository.registry.artifacts()
        return [ArtifactCollection(self._where, record) for record in found if record.type == self.name]

    def collection(self, name: str) -> ArtifactCollection:
        """One of its artifacts. NotFound without it, Conflict when it has another type."""
        return _collection(self._where, name, self.name)


class ArtifactCollection:
    """An artifact with all its versions, as it was when it was looked up. Its length is the number of versions."""

    def __init__(self, project: Project, record: ArtifactRecord) -> None:
        self._where = project
        self._record = record

    def __repr__(self) -> str:
        return f"<ArtifactCollection {self.name} ({self.type})>"

    @property
    def name(self) -> str:
        """The artifact's name."""
        return self._record.name

    @property
    def type(self) -> str:
        """The type of all its versions."""
        return self._record.type

    @property
    def created_at(self) -> str:
        """When its first version was logged: UTC in ISO 8601, to the second, as ``2026-01-31T12:00:00Z``."""
        return instant(self._record.created)

    @property
    def aliases(self) -> list[str]:
        """All aliases of its versions, sorted."""
        return sorted(self._where.repository.registry.aliases(self.name))

    def __len__(self) -> int:
        return self._record.versions

    def artifacts(self) -> list[Artifact]:
        """Its versions, the newest first."""
        found = self._where.repository.registry.versions(self.name)
        return [Artifact._of(self._where, version) for version in reversed(found)]  # noqa: SLF001 - one package

    def versions(self) -> list[Artifact]:
        """As :meth:`artifacts`."""
        return self.artifacts()


class Api:
    """Finds artifacts and Runs of a project. Nothing that is read through it becomes an input of a Run. A context manager.

    ``repository`` is a directory or the URL of a server. It is opened when it is asked first, and must be there then (NotFound).
    """

    def __init__(self, repository: str | os.PathLike[str] | None = None, project: str | None = None) -> None:
        where = arguments.location("repository", repository)
        settings = config.load(repository=where, project=arguments.text_or_none("project", project))
        self._place = (settings.repository, settings.project)
        self._project: Project | None = None
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the repository go, unless artifacts or runs that came from here still need it. Idempotent."""
        self._closed = True
        self._project = None

    @property
    def project(self) -> str:
        """The project that names are looked up in, unless they say another."""
        return self._place[1]

    # -- artifacts -------------------------------------------------------------------------------------------------

    def artifact(self, name: str, type: str | None = None) -> Artifact:  # noqa: A002 - the word of the vocabulary
        """The version of ``name``, ``name:alias``, ``name:v3``, ``name@blake3:…`` or ``project/name:…``.

        NotFound says what is there instead; Conflict names both types when ``type`` is not the version's.
        """
        address = _address(name)
        where = self._in(address)
        artifact = Artifact._of(where, where.repository.resolve(_within(address)))  # noqa: SLF001 - one package
        if type is not None and type != artifact.type:
            raise Conflict(
                f"{artifact.name} has the type {artifact.type!r}, not type={type!r}; give that, or leave it out"
            )
        return artifact

    def artifacts(
        self,
        type_name: str | None = None,
        name: str | None = None,
        per_page: int | None = None,
        tags: str | Sequence[str] | None = None,
        *,
        where: str = "",
        alias: str | None = None,
        order: str | Sequence[str] | None = None,
        limit: int | None = None,
    ) -> list[Artifact]:
        """Versions that match all that is given: of this type and name, with all these tags, this alias, and a condition.

        ``where`` is a condition as of ``artifactfs find``: ``metadata.accuracy > 0.9 and tag = "checked"``. ``order`` is a field or a
        list of them, such as ``metadata.accuracy`` or ``-created``, ``-`` for falling; at last they come by name and number.
        ``limit``: at most so many. ``per_page`` makes no difference. InvalidInput says what is wrong with a condition, and where.
        """
        del per_page
        marks = [tags] if isinstance(tags, str) else list(arguments.names("tags", tags or ()))
        parse_condition(
            arguments.text("where", where)
        )  # by itself, so that a parenthesis more cannot be a part of the rest
        # A tag has no quotes in it, so it stands for itself in a condition.
        conditions = [f"({where})"] if where.strip() else []
        conditions += [f'tag = "{check_tag(tag)}"' for tag in marks]
        query = Query(
            artifact=check_name(arguments.text("name", name)) if name is not None else None,
            type=check_type(arguments.text("type_name", type_name)) if type_name is not None else None,
            alias=arguments.text_or_none("alias", alias),
            where=" and ".join(conditions) if marks else where,
            sort=(order,) if isinstance(order, str) else arguments.names("order", order or ()),
            limit=arguments.whole("limit", limit),
        )
        project = self._where
        return [Artifact._of(project, version) for version in project.repository.registry.find(query)]  # noqa: SLF001

    def artifact_exists(self, name: str, type: str | None = None) -> bool:  # noqa: A002 - as above
        """Whether :meth:`artifact` would find a version, of that type."""
        try:
            self.artifact(name, type)
        except (NotFound, Conflict):
            return False
        return True

    def artifact_types(self) -> list[ArtifactType]:
        """The types of the project's artifacts, sorted."""
        where = self._where
        return [
            ArtifactType(where, name) for name in sorted({each.type for each in where.repository.registry.artifacts()})
        ]

    def artifact_type(self, type_name: str) -> ArtifactType:
        """A type. NotFound when no artifact has it."""
        types = self.artifact_types()
        for found in types:
            if found.name == type_name:
                return found
        known = ", ".join(each.name for each in types)
        raise NotFound(
            f"no artifact in project {self.project!r} has the type {type_name!r}; there are {known or 'none'}"
        )

    def artifact_collections(self, type_name: str | None = None) -> list[ArtifactCollection]:
        """The project's artifacts, by name: all, or those of a type."""
        where = self._where
        found = where.repository.registry.artifacts()
        return [ArtifactCollection(where, each) for each in found if type_name is None or each.type == type_name]

    def artifact_collection(self, name: str, *, type_name: str | None = None) -> ArtifactCollection:
        """An artifact with all its versions. NotFound without it, Conflict when it has another type than ``type_name``."""
        address = _address(name)
        return _collection(self._in(address), address.name, type_name)

    def artifact_collection_exists(self, name: str, type: str | None = None) -> bool:  # noqa: A002 - as above
        """Whether :meth:`artifact_collection` would find it, of that type."""
        try:
            self.artifact_collection(name, type_name=type)
        except (NotFound, Conflict):
            return False
        return True

    # -- runs ------------------------------------------------------------------------------------------------------

    def run(self, id: str) -> RecordedRun:  # noqa: A002 - as users know it
        """The Run with this id. NotFound without it."""
        where = self._where
        record = where.repository.registry.run(arguments.text("id", id))
        if record is None:
            raise NotFound(f"no run {id!r} in project {self.project!r}; runs() and `artifactfs runs` list them")
        return RecordedRun(where, record)

    def runs(
        self,
        *,
        job_type: str | None = None,
        state: str | None = None,
        name: str | None = None,
        limit: int | None = None,
        offset: int = 0,
    ) -> list[RecordedRun]:
        """Runs that match all that is given, the last started first: ``limit`` of them, after ``offset`` others.

        ``state`` is ``running``, ``finished``, ``failed`` or ``crashed``; InvalidInput for another word.
        """
        where = self._where
        found = where.repository.registry.runs(
            job_type=arguments.text_or_none("job_type", job_type),
            state=arguments.text_or_none("state", state),
            name=arguments.text_or_none("name", name),
            limit=arguments.whole("limit", limit),
            offset=arguments.whole("offset", offset) or 0,
        )
        return [RecordedRun(where, record) for record in found]

    # -- within ----------------------------------------------------------------------------------------------------

    @property
    def _where(self) -> Project:
        if self._closed:
            raise InvalidInput("this Api is closed; make another one")
        project = self._project
        if project is None:
            project = self._project = open_project(*self._place, create=False)
        return project

    def _in(self, address: Address) -> Project:
        """The project of an address, in the same repository."""
        where = self._where
        if address.project is None or address.project == where.name:
            return where
        return open_project(where.location, address.project, create=False)


def _address(name: str) -> Address:
    address = parse_address(arguments.text("name", name))
    if address.path:
        raise InvalidInput(f"{name!r} names a path; look up the version, then get_path({address.path!r})")
    return address


def _within(address: Address) -> Address:
    return Address(None, address.name, address.selector, address.digest)


def _collection(where: Project, name: str, type_name: str | None) -> ArtifactCollection:
    record = where.repository.registry.artifact(name)
    if record is None:
        names = ", ".join(each.name for each in where.repository.registry.artifacts()[:8])
        raise NotFound(f"no artifact {name!r} in project {where.name!r}; there are {names or 'none'}")
    if type_name is not None and type_name != record.type:
        raise Conflict(f"{name} has the type {record.type!r}, not {type_name!r}; give that, or leave it out")
    return ArtifactCollection(where, record)
