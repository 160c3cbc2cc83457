-- The kernel's tables. Names collate as bytes, so that Python and Postgres agree on the order in which rows are locked.

CREATE TABLE resource (
    kind                  text COLLATE "C" NOT NULL,
    project               text COLLATE "C" NOT NULL,   -- empty for kinds of region scope
    name                  text COLLATE "C" NOT NULL,
    uid                   uuid NOT NULL DEFAULT gen_random_uuid(),
    generation            bigint NOT NULL DEFAULT 1 CHECK (generation > 0),
    labels                jsonb NOT NULL DEFAULT '{}',
    spec                  jsonb NOT NULL,
    status                jsonb NOT NULL DEFAULT '{}',
    ready                 boolean NOT NULL GENERATED ALWAYS AS (
                              jsonb_path_exists(status, '$.conditions[*] ? (@.type == "Ready" && @.status == "True")')
                          ) STORED,
    created_at            timestamptz NOT NULL DEFAULT now(),
    deletion_requested_at timestamptz,
    reconcile_at          timestamptz DEFAULT now(),   -- null: not before something wakes it
    wakes                 bigint NOT NULL DEFAULT 0,   -- counts the reasons to look again, so that none is lost meanwhile
    failures              integer NOT NULL DEFAULT 0,  -- in a row; the backoff grows with them
    PRIMARY KEY (kind, project, name)
);
CREATE INDEX resource_due ON resource (reconcile_at);
CREATE INDEX resource_project ON resource (project, kind, name);  -- all three: a point look-up through it stays one

CREATE TABLE reference (
    kind           text COLLATE "C" NOT NULL,
    project        text COLLATE "C" NOT NULL,
    name           text COLLATE "C" NOT NULL,
    target_kind    text COLLATE "C" NOT NULL,
    target_project text COLLATE "C" NOT NULL,
    target_name    text COLLATE "C" NOT NULL,          -- may be declared later: what refers to it waits
    PRIMARY KEY (kind, project, name, target_kind, target_project, target_name),
    FOREIGN KEY (kind, project, name) REFERENCES resource ON DELETE CASCADE
);
CREATE INDEX reference_target ON reference (target_kind, target_project, target_name);

-- Fencing tokens come from one sequence: a later lease of a resource always carries a greater one, also after the
-- resource was deleted and declared again.
CREATE SEQUENCE lease_token;

CREATE TABLE lease (
    kind       text COLLATE "C" NOT NULL,
    project    text COLLATE "C" NOT NULL,
    name       text COLLATE "C" NOT NULL,
    holder     text NOT NULL,
    token      bigint NOT NULL,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (kind, project, name),
    FOREIGN KEY (kind, project, name) REFERENCES resource ON DELETE CASCADE
);

CREATE TABLE event (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at      timestamptz NOT NULL DEFAULT clock_timestamp(),  -- of the last time, when it was counted several times
    kind    text COLLATE "C" NOT NULL,
    project text COLLATE "C" NOT NULL,
    name    text COLLATE "C" NOT NULL,
    type    text NOT NULL CHECK (type IN ('Normal', 'Warning')),
    reason  text NOT NULL,
    message text NOT NULL,
    count   bigint NOT NULL DEFAULT 1
);
CREATE INDEX event_resource ON event (kind, project, name, id);
CREATE INDEX event_project ON event (project, id);

CREATE TABLE api_key (
    id           text COLLATE "C" PRIMARY KEY,
    name         text NOT NULL,
    project      text COLLATE "C",                     -- null: the whole region
    digest       bytea NOT NULL,                       -- HMAC-SHA-256 of the secret; the secret itself is nowhere
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz,
    revoked_at   timestamptz,
    last_used_at timestamptz
);
CREATE INDEX api_key_project ON api_key (project);

-- Whoever writes, those who watch hear of it: the channel belongs to the row, not to the code that changed it.
CREATE FUNCTION notify_resource() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    changed resource := coalesce(NEW, OLD);
BEGIN
    PERFORM pg_notify('falaj_resource', concat_ws('/', changed.kind, nullif(changed.project, ''), changed.name));
    RETURN NULL;
END $$;

CREATE FUNCTION notify_due() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('falaj_due', '');
    RETURN NULL;
END $$;

CREATE FUNCTION notify_key() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('falaj_key', coalesce(NEW.id, OLD.id));
    RETURN NULL;
END $$;

CREATE TRIGGER resource_came_or_went AFTER INSERT OR DELETE ON resource FOR EACH ROW EXECUTE FUNCTION notify_resource();
CREATE TRIGGER resource_changed AFTER UPDATE ON resource FOR EACH ROW
    WHEN ((OLD.generation, OLD.status, OLD.deletion_requested_at)
          IS DISTINCT FROM (NEW.generation, NEW.status, NEW.deletion_requested_at))
    EXECUTE FUNCTION notify_resource();
CREATE TRIGGER resource_came_due AFTER INSERT ON resource FOR EACH STATEMENT EXECUTE FUNCTION notify_due();
CREATE TRIGGER resource_woken AFTER UPDATE ON resource FOR EACH ROW
    WHEN (OLD.wakes IS DISTINCT FROM NEW.wakes) EXECUTE FUNCTION notify_due();
CREATE TRIGGER key_came_or_went AFTER INSERT OR DELETE ON api_key FOR EACH ROW EXECUTE FUNCTION notify_key();
CREATE TRIGGER key_changed AFTER UPDATE ON api_key FOR EACH ROW
    WHEN ((OLD.digest, OLD.project, OLD.expires_at, OLD.revoked_at)
          IS DISTINCT FROM (NEW.digest, NEW.project, NEW.expires_at, NEW.revoked_at))
    EXECUTE FUNCTION notify_key();
