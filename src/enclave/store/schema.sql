-- Version 7, which an older one becomes by being given this once more. Statements can be run again: a start that was cut
-- short is finished by the next one.

-- `doc` is the session's JSON without its result; the columns before it are copies, for finding.
CREATE TABLE IF NOT EXISTS sessions (
    id         TEXT PRIMARY KEY,
    org_id     TEXT NOT NULL,
    created_by TEXT NOT NULL,
    phase      TEXT NOT NULL,
    created_at TEXT NOT NULL,
    doc        TEXT NOT NULL,
    result     TEXT
);
CREATE INDEX IF NOT EXISTS sessions_of_org ON sessions (org_id, id);
CREATE INDEX IF NOT EXISTS sessions_of_org_in_phase ON sessions (org_id, phase, id);
CREATE INDEX IF NOT EXISTS sessions_unsettled ON sessions (id) WHERE phase IN ('pending', 'running');

CREATE TABLE IF NOT EXISTS labels (
    org_id     TEXT NOT NULL,
    name       TEXT NOT NULL,
    value      TEXT NOT NULL,
    session_id TEXT NOT NULL REFERENCES sessions (id),
    PRIMARY KEY (org_id, name, value, session_id)
) WITHOUT ROWID;

-- `body` is the exact text that `digest` is the SHA-256 of, so that the chain can be checked without Enclave.
CREATE TABLE IF NOT EXISTS audit (
    org_id     TEXT NOT NULL,
    seq        INTEGER NOT NULL,
    session_id TEXT,
    type       TEXT NOT NULL,
    ts         TEXT NOT NULL,
    body       TEXT NOT NULL,
    previous   TEXT NOT NULL,
    digest     TEXT NOT NULL,
    PRIMARY KEY (org_id, seq)
);
CREATE INDEX IF NOT EXISTS audit_of_session ON audit (session_id, seq);

-- `doc` is the binding's JSON without who made it and when. `sealed` is its secret, encrypted with a key that is not in
-- this file, and bound to `org_id` and every byte of `doc`: neither can be changed under it.
CREATE TABLE IF NOT EXISTS bindings (
    org_id     TEXT NOT NULL,
    name       TEXT NOT NULL,
    doc        TEXT NOT NULL,
    sealed     BLOB NOT NULL,
    created_at TEXT NOT NULL,
    created_by TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    PRIMARY KEY (org_id, name)
);
-- Names that sessions would find in one environment variable.
CREATE UNIQUE INDEX IF NOT EXISTS bindings_by_variable ON bindings (org_id, replace(name, '-', '_'));

-- What the events that come from elsewhere were known by there, so that none is in the chain twice.
CREATE TABLE IF NOT EXISTS noted (
    key TEXT PRIMARY KEY
) WITHOUT ROWID;

-- Where a session that asked for it is posted when it is over, and what became of that. `sealed` is the URL, encrypted
-- as secrets are, for it may hold one. Until the session is over, `phase` and all after it are empty. What is to be sent
-- has a `due_at`; whoever sends it claims it until a moment. Moments are seconds since the epoch.
CREATE TABLE IF NOT EXISTS deliveries (
    session_id    TEXT PRIMARY KEY REFERENCES sessions (id) ON DELETE CASCADE,
    org_id        TEXT NOT NULL,
    host          TEXT NOT NULL,
    sealed        BLOB NOT NULL,
    phase         TEXT,
    created_at    REAL,
    due_at        REAL,
    claimed_until REAL,
    attempts      INTEGER NOT NULL DEFAULT 0,
    attempted_at  REAL,
    status        INTEGER,
    error         TEXT,
    delivered_at  REAL
);
CREATE INDEX IF NOT EXISTS deliveries_due ON deliveries (org_id, host, due_at, session_id, claimed_until)
    WHERE due_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS deliveries_of_org ON deliveries (org_id, session_id) WHERE phase IS NOT NULL;

-- What webhooks are signed with, encrypted as secrets are; one that was replaced signs `until` then.
CREATE TABLE IF NOT EXISTS webhook_secrets (
    org_id     TEXT NOT NULL,
    created_at TEXT NOT NULL,
    sealed     BLOB NOT NULL,
    until      REAL,
    PRIMARY KEY (org_id, created_at)
);

-- What the operator grants orgs, as JSON; of `default`, which no org is called, to every org that has no row.
CREATE TABLE IF NOT EXISTS terms (
    org_id TEXT PRIMARY KEY,
    doc    TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS policies (
    org_id TEXT PRIMARY KEY,
    doc    TEXT NOT NULL
) WITHOUT ROWID;

-- What the sessions of an org used on a day of UTC, summed up.
CREATE TABLE IF NOT EXISTS usage (
    org_id       TEXT NOT NULL,
    day          TEXT NOT NULL,
    cpu_seconds  REAL NOT NULL,
    egress_bytes INTEGER NOT NULL,
    PRIMARY KEY (org_id, day)
) WITHOUT ROWID;

-- Keys that requests were made safe to repeat by: the session that each brought into being, the digest of the request,
-- and when (POSIX seconds).
CREATE TABLE IF NOT EXISTS claims (
    org_id     TEXT NOT NULL,
    key        TEXT NOT NULL,
    session_id TEXT NOT NULL,
    digest     TEXT NOT NULL,
    made_at    REAL NOT NULL,
    PRIMARY KEY (org_id, key)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS claims_by_age ON claims (made_at);

CREATE TRIGGER IF NOT EXISTS audit_is_not_rewritten BEFORE UPDATE ON audit
BEGIN
    SELECT RAISE (ABORT, 'the audit trail is append-only');
END;
-- What attests entries that were removed for their age: `doc` is signed, says up to which, and is not removed.
CREATE TABLE IF NOT EXISTS tombstones (
    org_id TEXT NOT NULL,
    seq    INTEGER NOT NULL,
    doc    TEXT NOT NULL,
    PRIMARY KEY (org_id, seq)
) WITHOUT ROWID;
CREATE TRIGGER IF NOT EXISTS tombstones_are_not_rewritten BEFORE UPDATE ON tombstones
BEGIN
    SELECT RAISE (ABORT, 'tombstones stay');
END;
CREATE TRIGGER IF NOT EXISTS tombstones_are_not_erased BEFORE DELETE ON tombstones
BEGIN
    SELECT RAISE (ABORT, 'tombstones stay');
END;
CREATE TRIGGER IF NOT EXISTS audit_is_not_erased BEFORE DELETE ON audit
WHEN NOT EXISTS (SELECT 1 FROM tombstones WHERE org_id = OLD.org_id AND seq >= OLD.seq)
BEGIN
    SELECT RAISE (ABORT, 'the audit trail is append-only');
END;
-- INSERT OR REPLACE would get past the two above.
CREATE TRIGGER IF NOT EXISTS audit_has_no_gap BEFORE INSERT ON audit
WHEN NEW.seq <> 1 + (SELECT coalesce(max(seq), 0) FROM audit WHERE org_id = NEW.org_id)
BEGIN
    SELECT RAISE (ABORT, 'the audit trail has no gap and no second version');
END;
