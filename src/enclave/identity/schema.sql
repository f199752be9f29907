-- Version 1. Statements can be run again: a start that was cut short is finished by the next one.

CREATE TABLE IF NOT EXISTS orgs (
    id         TEXT PRIMARY KEY,
    created_at TEXT NOT NULL
);

CREATE TABLE IF NOT EXISTS users (
    id         TEXT PRIMARY KEY,
    email      TEXT NOT NULL UNIQUE,
    created_at TEXT NOT NULL
);

CREATE TABLE IF NOT EXISTS memberships (
    org_id  TEXT NOT NULL REFERENCES orgs (id),
    user_id TEXT NOT NULL REFERENCES users (id),
    role    TEXT NOT NULL,
    PRIMARY KEY (org_id, user_id)
) WITHOUT ROWID;

-- `hash` is HMAC-SHA256(pepper, secret): the secret itself is nowhere. A key does nothing its member may not.
CREATE TABLE IF NOT EXISTS api_keys (
    id         TEXT PRIMARY KEY,
    hash       BLOB NOT NULL,
    org_id     TEXT NOT NULL,
    user_id    TEXT NOT NULL,
    role       TEXT NOT NULL,
    created_at TEXT NOT NULL,
    revoked_at TEXT,
    FOREIGN KEY (org_id, user_id) REFERENCES memberships (org_id, user_id)
);
