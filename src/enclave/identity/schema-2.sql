-- Version 2: keys have names, scopes and an end, and what changes is told.

-- `scopes` null is all that the role has. `expires_at` is in POSIX seconds.
ALTER TABLE api_keys ADD COLUMN name TEXT NOT NULL DEFAULT 'bootstrap';
ALTER TABLE api_keys ADD COLUMN scopes TEXT;
ALTER TABLE api_keys ADD COLUMN created_by TEXT NOT NULL DEFAULT 'platform';
ALTER TABLE api_keys ADD COLUMN expires_at REAL;
ALTER TABLE api_keys ADD COLUMN last_used_at TEXT;
CREATE INDEX keys_of_org ON api_keys (org_id);

-- Events on their way to their org's chain, which is in another file: written with the change that they tell of, removed
-- when the chain has them. `id` is what the chain knows an event by that it is given twice.
CREATE TABLE outbox (
    seq  INTEGER PRIMARY KEY AUTOINCREMENT,
    id   TEXT NOT NULL UNIQUE,
    body TEXT NOT NULL
);
