-- Times are milliseconds since 1970 UTC, ids are UUIDv7 in text form (so that their order is that of creation).

CREATE TABLE batches (
    id              TEXT    PRIMARY KEY,
    idempotency_key TEXT    UNIQUE,
    request         TEXT,
    total           INTEGER NOT NULL,
    created_at      INTEGER NOT NULL
) STRICT;

CREATE TABLE jobs (
    id               TEXT    PRIMARY KEY,
    batch_id         TEXT    REFERENCES batches (id),
    kind             TEXT    NOT NULL,
    state            TEXT    NOT NULL,
    attempt          INTEGER NOT NULL,
    max_attempts     INTEGER NOT NULL,
    run_at           INTEGER NOT NULL,
    lease_until      INTEGER,
    worker           TEXT,
    cancel_requested INTEGER NOT NULL DEFAULT 0,
    idempotency_key  TEXT,
    request          TEXT,
    params           TEXT    NOT NULL,
    last_error       TEXT,
    error_history    TEXT    NOT NULL DEFAULT '[]',
    created_at       INTEGER NOT NULL,
    updated_at       INTEGER NOT NULL,
    finished_at      INTEGER
) STRICT;

CREATE UNIQUE INDEX jobs_idempotency ON jobs (kind, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX jobs_due ON jobs (state, run_at, id);
CREATE INDEX jobs_batch ON jobs (batch_id, id) WHERE batch_id IS NOT NULL;

CREATE TABLE results (
    job_id     TEXT    PRIMARY KEY REFERENCES jobs (id),
    document   TEXT    NOT NULL,
    data       BLOB,
    created_at INTEGER NOT NULL
) STRICT;
