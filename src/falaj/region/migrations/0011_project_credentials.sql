-- The S3 keys of each project. The object store holds them as well; these rows are what it is brought back to.

CREATE TABLE project_credential (
    project    text COLLATE "C" PRIMARY KEY,
    access_key text NOT NULL UNIQUE,
    secret_key text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
