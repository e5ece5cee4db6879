"""Format 2: the first that PostgreSQL held. Run by alembic alone. As it was then, so that it stays whatever the tables become."""

from __future__ import annotations

from typing import Final

from alembic import op

revision: Final = "2"
down_revision: Final = None

_STATEMENTS: Final = (
    """
    CREATE TABLE meta (
        key VARCHAR(64) COLLATE "C" NOT NULL,
        value TEXT COLLATE "C" NOT NULL,
        PRIMARY KEY (key)
    )
    """,
    """
    CREATE TABLE project (
        id BIGSERIAL NOT NULL,
        name VARCHAR(128) COLLATE "C" NOT NULL,
        revision BIGINT NOT NULL,
        created BIGINT NOT NULL,
        PRIMARY KEY (id),
        UNIQUE (name)
    )
    """,
    """
    CREATE TABLE artifact (
        id BIGSERIAL NOT NULL,
        project BIGINT NOT NULL,
        name VARCHAR(128) COLLATE "C" NOT NULL,
        type VARCHAR(128) COLLATE "C" NOT NULL,
        created BIGINT NOT NULL,
        next_number BIGINT NOT NULL,
        PRIMARY KEY (id),
        UNIQUE (project, name),
        FOREIGN KEY(project) REFERENCES project (id)
    )
    """,
    """
    CREATE TABLE pack (
        id BIGSERIAL NOT NULL,
        project BIGINT NOT NULL,
        digest VARCHAR(64) COLLATE "C" NOT NULL,
        size BIGINT NOT NULL,
        PRIMARY KEY (id),
        UNIQUE (project, digest),
        FOREIGN KEY(project) REFERENCES project (id)
    )
    """,
    """
    CREATE TABLE run (
        project BIGINT NOT NULL,
        id VARCHAR(64) COLLATE "C" NOT NULL,
        name VARCHAR(255) COLLATE "C" NOT NULL,
        job_type VARCHAR(128) COLLATE "C" NOT NULL,
        state VARCHAR(16) COLLATE "C" NOT NULL,
        started BIGINT NOT NULL,
        ended BIGINT,
        renewed BIGINT NOT NULL,
        expires BIGINT NOT NULL,
        config JSON NOT NULL,
        host TEXT COLLATE "C" NOT NULL,
        command JSON NOT NULL,
        commit_hash VARCHAR(128) COLLATE "C" NOT NULL,
        exit_status INTEGER,
        PRIMARY KEY (project, id),
        FOREIGN KEY(project) REFERENCES project (id)
    )
    """,
    """
    CREATE INDEX run_started ON run (project, started, id)
    """,
    """
    CREATE TABLE session (
        id BIGSERIAL NOT NULL,
        project BIGINT NOT NULL,
        kind VARCHAR(64) COLLATE "C" NOT NULL,
        started BIGINT NOT NULL,
        expires BIGINT NOT NULL,
        PRIMARY KEY (id),
        FOREIGN KEY(project) REFERENCES project (id)
    )
    """,
    """
    CREATE TABLE chunk (
        project BIGINT NOT NULL,
        digest BYTEA NOT NULL,
        pack BIGINT NOT NULL,
        "offset" BIGINT NOT NULL,
        length BIGINT NOT NULL,
        size BIGINT NOT NULL,
        flags SMALLINT NOT NULL,
        PRIMARY KEY (project, digest),
        FOREIGN KEY(project) REFERENCES project (id),
        FOREIGN KEY(pack) REFERENCES pack (id)
    )
    """,
    """
    CREATE TABLE draft_part (
        project BIGINT NOT NULL,
        artifact VARCHAR(128) COLLATE "C" NOT NULL,
        draft VARCHAR(128) COLLATE "C" NOT NULL,
        digest BYTEA NOT NULL,
        session BIGINT NOT NULL,
        PRIMARY KEY (project, artifact, draft, digest, session),
        FOREIGN KEY(project) REFERENCES project (id),
        FOREIGN KEY(session) REFERENCES session (id) ON DELETE CASCADE
    )
    """,
    """
    CREATE INDEX draft_part_session ON draft_part (session)
    """,
    """
    CREATE TABLE version (
        id BIGSERIAL NOT NULL,
        artifact BIGINT NOT NULL,
        number BIGINT NOT NULL,
        digest BYTEA NOT NULL,
        size BIGINT NOT NULL,
        files BIGINT NOT NULL,
        entries BIGINT NOT NULL,
        created BIGINT NOT NULL,
        description TEXT COLLATE "C" NOT NULL,
        metadata JSON NOT NULL,
        deleted BIGINT,
        updated BIGINT DEFAULT '0' NOT NULL,
        run VARCHAR(64) COLLATE "C" DEFAULT '' NOT NULL,
        PRIMARY KEY (id),
        UNIQUE (artifact, number),
        FOREIGN KEY(artifact) REFERENCES artifact (id)
    )
    """,
    """
    CREATE UNIQUE INDEX version_living_digest ON version (artifact, digest) WHERE deleted IS NULL
    """,
    """
    CREATE TABLE alias (
        artifact BIGINT NOT NULL,
        name VARCHAR(128) COLLATE "C" NOT NULL,
        version BIGINT NOT NULL,
        PRIMARY KEY (artifact, name),
        FOREIGN KEY(artifact) REFERENCES artifact (id),
        FOREIGN KEY(version) REFERENCES version (id)
    )
    """,
    """
    CREATE TABLE commit_made (
        artifact BIGINT NOT NULL,
        commit_id VARCHAR(128) COLLATE "C" NOT NULL,
        version BIGINT NOT NULL,
        created BOOLEAN NOT NULL,
        PRIMARY KEY (artifact, commit_id),
        FOREIGN KEY(artifact) REFERENCES artifact (id),
        FOREIGN KEY(version) REFERENCES version (id)
    )
    """,
    """
    CREATE TABLE fact (
        version BIGINT NOT NULL,
        path TEXT COLLATE "C" NOT NULL,
        position INTEGER NOT NULL,
        project BIGINT NOT NULL,
        kind SMALLINT NOT NULL,
        number DOUBLE PRECISION,
        text TEXT COLLATE "C",
        whole TEXT COLLATE "C",
        PRIMARY KEY (version, path, position),
        FOREIGN KEY(version) REFERENCES version (id),
        FOREIGN KEY(project) REFERENCES project (id)
    )
    """,
    """
    CREATE INDEX fact_value ON fact (project, path, kind, number, text, position, version)
    """,
    """
    CREATE TABLE run_input (
        project BIGINT NOT NULL,
        run VARCHAR(64) COLLATE "C" NOT NULL,
        version BIGINT NOT NULL,
        at BIGINT NOT NULL,
        PRIMARY KEY (project, run, version),
        FOREIGN KEY(project, run) REFERENCES run (project, id),
        FOREIGN KEY(version) REFERENCES version (id)
    )
    """,
    """
    CREATE INDEX run_input_version ON run_input (version)
    """,
    """
    CREATE TABLE run_output (
        project BIGINT NOT NULL,
        run VARCHAR(64) COLLATE "C" NOT NULL,
        version BIGINT NOT NULL,
        at BIGINT NOT NULL,
        PRIMARY KEY (project, run, version),
        FOREIGN KEY(project, run) REFERENCES run (project, id),
        FOREIGN KEY(version) REFERENCES version (id)
    )
    """,
    """
    CREATE INDEX run_output_version ON run_output (version)
    """,
    """
    CREATE TABLE tag (
        version BIGINT NOT NULL,
        name VARCHAR(128) COLLATE "C" NOT NULL,
        PRIMARY KEY (version, name),
        FOREIGN KEY(version) REFERENCES version (id)
    )
    """,
    """
    CREATE INDEX tag_name ON tag (name)
    """,
    "INSERT INTO meta VALUES ('format', '2')",
)


def upgrade() -> None:
    """Make the tables of an empty database."""
    for statement in _STATEMENTS:
        op.execute(statement)
