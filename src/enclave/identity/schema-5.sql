-- Version 5: a control plane in another process asks by a credential: one at most. `hash` as of API keys.

CREATE TABLE services (
    id         TEXT PRIMARY KEY,
    hash       BLOB NOT NULL,
    created_at TEXT NOT NULL
);
