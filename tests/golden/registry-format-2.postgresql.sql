-- A registry of format 2 on PostgreSQL, as pg_dump --inserts writes it. v1 of bike-dataset is deleted.
-- tests/registry/test_postgresql.py restores it.
SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;

SET default_tablespace = '';

SET default_table_access_method = heap;

CREATE TABLE public.alembic_version (
    version_num character varying(32) NOT NULL
);

CREATE TABLE public.alias (
    artifact bigint NOT NULL,
    name character varying(128) NOT NULL COLLATE pg_catalog."C",
    version bigint NOT NULL
);

CREATE TABLE public.artifact (
    id bigint NOT NULL,
    project bigint NOT NULL,
    name character varying(128) NOT NULL COLLATE pg_catalog."C",
    type character varying(128) NOT NULL COLLATE pg_catalog."C",
    created bigint NOT NULL,
    next_number bigint NOT NULL
);

CREATE SEQUENCE public.artifact_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

ALTER SEQUENCE public.artifact_id_seq OWNED BY public.artifact.id;

CREATE TABLE public.chunk (
    project bigint NOT NULL,
    digest bytea NOT NULL,
    pack bigint NOT NULL,
    "offset" bigint NOT NULL,
    length bigint NOT NULL,
    size bigint NOT NULL,
    flags smallint NOT NULL
);

CREATE TABLE public.commit_made (
    artifact bigint NOT NULL,
    commit_id character varying(128) NOT NULL COLLATE pg_catalog."C",
    version bigint NOT NULL,
    created boolean NOT NULL
);

CREATE TABLE public.draft_part (
    project bigint NOT NULL,
    artifact character varying(128) NOT NULL COLLATE pg_catalog."C",
    draft character varying(128) NOT NULL COLLATE pg_catalog."C",
    digest bytea NOT NULL,
    session bigint NOT NULL
);

CREATE TABLE public.fact (
    version bigint NOT NULL,
    path text NOT NULL COLLATE pg_catalog."C",
    "position" integer NOT NULL,
    project bigint NOT NULL,
    kind smallint NOT NULL,
    number double precision,
    text text COLLATE pg_catalog."C",
    whole text COLLATE pg_catalog."C"
);

CREATE TABLE public.meta (
    key character varying(64) NOT NULL COLLATE pg_catalog."C",
    value text NOT NULL COLLATE pg_catalog."C"
);

CREATE TABLE public.pack (
    id bigint NOT NULL,
    project bigint NOT NULL,
    digest character varying(64) NOT NULL COLLATE pg_catalog."C",
    size bigint NOT NULL
);

CREATE SEQUENCE public.pack_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

ALTER SEQUENCE public.pack_id_seq OWNED BY public.pack.id;

CREATE TABLE public.project (
    id bigint NOT NULL,
    name character varying(128) NOT NULL COLLATE pg_catalog."C",
    revision bigint NOT NULL,
    created bigint NOT NULL
);

CREATE SEQUENCE public.project_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

ALTER SEQUENCE public.project_id_seq OWNED BY public.project.id;

CREATE TABLE public.run (
    project bigint NOT NULL,
    id character varying(64) NOT NULL COLLATE pg_catalog."C",
    name character varying(255) NOT NULL COLLATE pg_catalog."C",
    job_type character varying(128) NOT NULL COLLATE pg_catalog."C",
    state character varying(16) NOT NULL COLLATE pg_catalog."C",
    started bigint NOT NULL,
    ended bigint,
    renewed bigint NOT NULL,
    expires bigint NOT NULL,
    config json NOT NULL,
    host text NOT NULL COLLATE pg_catalog."C",
    command json NOT NULL,
    commit_hash character varying(128) NOT NULL COLLATE pg_catalog."C",
    exit_status integer
);

CREATE TABLE public.run_input (
    project bigint NOT NULL,
    run character varying(64) NOT NULL COLLATE pg_catalog."C",
    version bigint NOT NULL,
    at bigint NOT NULL
);

CREATE TABLE public.run_output (
    project bigint NOT NULL,
    run character varying(64) NOT NULL COLLATE pg_catalog."C",
    version bigint NOT NULL,
    at bigint NOT NULL
);

CREATE TABLE public.session (
    id bigint NOT NULL,
    project bigint NOT NULL,
    kind character varying(64) NOT NULL COLLATE pg_catalog."C",
    started bigint NOT NULL,
    expires bigint NOT NULL
);

CREATE SEQUENCE public.session_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

ALTER SEQUENCE public.session_id_seq OWNED BY public.session.id;

CREATE TABLE public.tag (
    version bigint NOT NULL,
    name character varying(128) NOT NULL COLLATE pg_catalog."C"
);

CREATE TABLE public.version (
    id bigint NOT NULL,
    artifact bigint NOT NULL,
    number bigint NOT NULL,
    digest bytea NOT NULL,
    size bigint NOT NULL,
    files bigint NOT NULL,
    entries bigint NOT NULL,
    created bigint NOT NULL,
    description text NOT NULL COLLATE pg_catalog."C",
    metadata json NOT NULL,
    deleted bigint,
    updated bigint DEFAULT '0'::bigint NOT NULL,
    run character varying(64) DEFAULT ''::character varying NOT NULL COLLATE pg_catalog."C"
);

CREATE SEQUENCE public.version_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

ALTER SEQUENCE public.version_id_seq OWNED BY public.version.id;

ALTER TABLE ONLY public.artifact ALTER COLUMN id SET DEFAULT nextval('public.artifact_id_seq'::regclass);

ALTER TABLE ONLY public.pack ALTER COLUMN id SET DEFAULT nextval('public.pack_id_seq'::regclass);

ALTER TABLE ONLY public.project ALTER COLUMN id SET DEFAULT nextval('public.project_id_seq'::regclass);

ALTER TABLE ONLY public.session ALTER COLUMN id SET DEFAULT nextval('public.session_id_seq'::regclass);

ALTER TABLE ONLY public.version ALTER COLUMN id SET DEFAULT nextval('public.version_id_seq'::regclass);

INSERT INTO public.alembic_version VALUES ('2');

INSERT INTO public.alias VALUES (1, 'best', 1);
INSERT INTO public.alias VALUES (1, 'latest', 3);
INSERT INTO public.alias VALUES (2, 'latest', 4);

INSERT INTO public.artifact VALUES (1, 1, 'bike-dataset', 'dataset', 1700000000000000000, 3);
INSERT INTO public.artifact VALUES (2, 1, 'Zebra', 'dataset', 1700000000000000000, 1);

INSERT INTO public.chunk VALUES (1, '\x2725aea2d2dea736fbe38e41ecb518f6098cb68ac77362c5e34faafb356567c5', 1, 100, 100, 200, 1);
INSERT INTO public.chunk VALUES (1, '\xb18efa847f7a3fa48fe0aafd4a6250aa5129740e05126859377af20cedafdeee', 1, 0, 100, 200, 1);
INSERT INTO public.chunk VALUES (1, '\xb6f3c15844fe12f966ad90db59da8332a9a6d9dfd198ac83949be2045ec6dc1e', 1, 200, 100, 200, 1);

INSERT INTO public.commit_made VALUES (1, 'c1', 1, true);
INSERT INTO public.commit_made VALUES (1, 'c2', 2, true);
INSERT INTO public.commit_made VALUES (1, 'c3', 3, true);
INSERT INTO public.commit_made VALUES (2, 'c4', 4, true);

INSERT INTO public.fact VALUES (3, 'z', 0, 1, 1, 1, NULL, NULL);
INSERT INTO public.fact VALUES (3, 'accuracy', 0, 1, 1, 0.5, NULL, NULL);
INSERT INTO public.fact VALUES (3, 'name', 0, 1, 2, NULL, 'ü ∑', NULL);
INSERT INTO public.fact VALUES (3, 'whole', 0, 1, 1, 1, NULL, NULL);

INSERT INTO public.meta VALUES ('format', '2');

INSERT INTO public.pack VALUES (1, 1, 'd8a73e341f22f167fc0da11859460b964d9a28ccde7e050079ec997e720dd0de', 300);

INSERT INTO public.project VALUES (1, 'default', 1700000000004, 1700000000000000000);

INSERT INTO public.run VALUES (1, 'r1', 'one', '', 'running', 1700000000000000000, NULL, 1700000000000000000, 1700000120000000000, '{"lr":0.1}', '', '[]', '', NULL);

INSERT INTO public.run_output VALUES (1, 'r1', 2, 1700000000000000000);
INSERT INTO public.run_output VALUES (1, 'r1', 3, 1700000000000000000);

INSERT INTO public.tag VALUES (3, 'tried');

INSERT INTO public.version VALUES (1, 1, 0, '\xca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb', 1000, 10, 12, 1700000000000000000, 'the first', '{}', NULL, 0, '');
INSERT INTO public.version VALUES (3, 1, 2, '\x2e7d2c03a9507ae265ecf5b5356885a53393a2029d241394997265a1a25aefc6', 1000, 10, 12, 1700000000000000000, '', '{"z": 1, "accuracy": 0.5, "name": "\u00fc \u2211", "whole": 1.0}', NULL, 0, 'r1');
INSERT INTO public.version VALUES (2, 1, 1, '\x3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d', 1000, 10, 12, 1700000000000000000, '', '{}', 1700000000000000000, 0, 'r1');
INSERT INTO public.version VALUES (4, 2, 0, '\x594e519ae499312b29433b7dd8a97ff068defcba9755b6d5d00e84c524d67b06', 1000, 10, 12, 1700000000000000000, '', '{}', NULL, 0, '');

SELECT pg_catalog.setval('public.artifact_id_seq', 2, true);

SELECT pg_catalog.setval('public.pack_id_seq', 1, true);

SELECT pg_catalog.setval('public.project_id_seq', 1, true);

SELECT pg_catalog.setval('public.session_id_seq', 1, false);

SELECT pg_catalog.setval('public.version_id_seq', 4, true);

ALTER TABLE ONLY public.alembic_version
    ADD CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num);

ALTER TABLE ONLY public.alias
    ADD CONSTRAINT alias_pkey PRIMARY KEY (artifact, name);

ALTER TABLE ONLY public.artifact
    ADD CONSTRAINT artifact_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.artifact
    ADD CONSTRAINT artifact_project_name_key UNIQUE (project, name);

ALTER TABLE ONLY public.chunk
    ADD CONSTRAINT chunk_pkey PRIMARY KEY (project, digest);

ALTER TABLE ONLY public.commit_made
    ADD CONSTRAINT commit_made_pkey PRIMARY KEY (artifact, commit_id);

ALTER TABLE ONLY public.draft_part
    ADD CONSTRAINT draft_part_pkey PRIMARY KEY (project, artifact, draft, digest, session);

ALTER TABLE ONLY public.fact
    ADD CONSTRAINT fact_pkey PRIMARY KEY (version, path, "position");

ALTER TABLE ONLY public.meta
    ADD CONSTRAINT meta_pkey PRIMARY KEY (key);

ALTER TABLE ONLY public.pack
    ADD CONSTRAINT pack_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.pack
    ADD CONSTRAINT pack_project_digest_key UNIQUE (project, digest);

ALTER TABLE ONLY public.project
    ADD CONSTRAINT project_name_key UNIQUE (name);

ALTER TABLE ONLY public.project
    ADD CONSTRAINT project_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.run_input
    ADD CONSTRAINT run_input_pkey PRIMARY KEY (project, run, version);

ALTER TABLE ONLY public.run_output
    ADD CONSTRAINT run_output_pkey PRIMARY KEY (project, run, version);

ALTER TABLE ONLY public.run
    ADD CONSTRAINT run_pkey PRIMARY KEY (project, id);

ALTER TABLE ONLY public.session
    ADD CONSTRAINT session_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.tag
    ADD CONSTRAINT tag_pkey PRIMARY KEY (version, name);

ALTER TABLE ONLY public.version
    ADD CONSTRAINT version_artifact_number_key UNIQUE (artifact, number);

ALTER TABLE ONLY public.version
    ADD CONSTRAINT version_pkey PRIMARY KEY (id);

CREATE INDEX draft_part_session ON public.draft_part USING btree (session);

CREATE INDEX fact_value ON public.fact USING btree (project, path, kind, number, text, "position", version);

CREATE INDEX run_input_version ON public.run_input USING btree (version);

CREATE INDEX run_output_version ON public.run_output USING btree (version);

CREATE INDEX run_started ON public.run USING btree (project, started, id);

CREATE INDEX tag_name ON public.tag USING btree (name);

CREATE UNIQUE INDEX version_living_digest ON public.version USING btree (artifact, digest) WHERE (deleted IS NULL);

ALTER TABLE ONLY public.alias
    ADD CONSTRAINT alias_artifact_fkey FOREIGN KEY (artifact) REFERENCES public.artifact(id);

ALTER TABLE ONLY public.alias
    ADD CONSTRAINT alias_version_fkey FOREIGN KEY (version) REFERENCES public.version(id);

ALTER TABLE ONLY public.artifact
    ADD CONSTRAINT artifact_project_fkey FOREIGN KEY (project) REFERENCES public.project(id);

ALTER TABLE ONLY public.chunk
    ADD CONSTRAINT chunk_pack_fkey FOREIGN KEY (pack) REFERENCES public.pack(id);

ALTER TABLE ONLY public.chunk
    ADD CONSTRAINT chunk_project_fkey FOREIGN KEY (project) REFERENCES public.project(id);

ALTER TABLE ONLY public.commit_made
    ADD CONSTRAINT commit_made_artifact_fkey FOREIGN KEY (artifact) REFERENCES public.artifact(id);

ALTER TABLE ONLY public.commit_made
    ADD CONSTRAINT commit_made_version_fkey FOREIGN KEY (version) REFERENCES public.version(id);

ALTER TABLE ONLY public.draft_part
    ADD CONSTRAINT draft_part_project_fkey FOREIGN KEY (project) REFERENCES public.project(id);

ALTER TABLE ONLY public.draft_part
    ADD CONSTRAINT draft_part_session_fkey FOREIGN KEY (session) REFERENCES public.session(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.fact
    ADD CONSTRAINT fact_project_fkey FOREIGN KEY (project) REFERENCES public.project(id);

ALTER TABLE ONLY public.fact
    ADD CONSTRAINT fact_version_fkey FOREIGN KEY (version) REFERENCES public.version(id);

ALTER TABLE ONLY public.pack
    ADD CONSTRAINT pack_project_fkey FOREIGN KEY (project) REFERENCES public.project(id);

ALTER TABLE ONLY public.run_input
    ADD CONSTRAINT run_input_project_run_fkey FOREIGN KEY (project, run) REFERENCES public.run(project, id);

ALTER TABLE ONLY public.run_input
    ADD CONSTRAINT run_input_version_fkey FOREIGN KEY (version) REFERENCES public.version(id);

ALTER TABLE ONLY public.run_output
    ADD CONSTRAINT run_output_project_run_fkey FOREIGN KEY (project, run) REFERENCES public.run(project, id);

ALTER TABLE ONLY public.run_output
    ADD CONSTRAINT run_output_version_fkey FOREIGN KEY (version) REFERENCES public.version(id);

ALTER TABLE ONLY public.run
    ADD CONSTRAINT run_project_fkey FOREIGN KEY (project) REFERENCES public.project(id);

ALTER TABLE ONLY public.session
    ADD CONSTRAINT session_project_fkey FOREIGN KEY (project) REFERENCES public.project(id);

ALTER TABLE ONLY public.tag
    ADD CONSTRAINT tag_version_fkey FOREIGN KEY (version) REFERENCES public.version(id);

ALTER TABLE ONLY public.version
    ADD CONSTRAINT version_artifact_fkey FOREIGN KEY (artifact) REFERENCES public.artifact(id);
