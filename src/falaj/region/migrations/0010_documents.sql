-- What is known of each document of a knowledge base. The bytes are objects; the index can be rebuilt from these rows.

CREATE TABLE document (
    project        text COLLATE "C" NOT NULL,
    knowledge_base text COLLATE "C" NOT NULL,
    name           text COLLATE "C" NOT NULL,          -- bucket/key
    etag           text NOT NULL,                      -- of the object that this row tells about
    recipe         text NOT NULL,                      -- fingerprint of everything that shapes passages and vectors
    size_bytes     bigint NOT NULL,
    state          text NOT NULL CHECK (state IN ('ready', 'failed')),
    reason         text NOT NULL DEFAULT '',           -- why it failed, as a stable word
    message        text NOT NULL DEFAULT '',
    title          text NOT NULL DEFAULT '',
    language       text NOT NULL DEFAULT '',
    chunks         integer NOT NULL DEFAULT 0,
    attempts       integer NOT NULL DEFAULT 0,         -- failed in a row
    retry_at       timestamptz,                        -- null: not before the object changes
    updated_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (project, knowledge_base, name)
);

-- Vectors of passages, by a fingerprint of model and text. They make ingestion resumable in the middle of a document, and
-- let a changed document or a lost index be indexed again without computing what is known.
CREATE TABLE passage_vector (
    project        text COLLATE "C" NOT NULL,
    knowledge_base text COLLATE "C" NOT NULL,
    document       text COLLATE "C" NOT NULL,
    digest         bytea NOT NULL,
    vector         bytea NOT NULL,                     -- 32-bit floats, little-endian
    PRIMARY KEY (project, knowledge_base, document, digest)
);
