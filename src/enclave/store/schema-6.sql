-- What versions 1 to 5 need before they become version 6: an audit table that does not refer to sessions, because events
-- outlive them. Its indexes and triggers go with the old one.

ALTER TABLE audit RENAME TO audit_before;
DROP INDEX IF EXISTS audit_of_session;
CREATE TABLE audit (
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
INSERT INTO audit SELECT org_id, seq, session_id, type, ts, body, previous, digest FROM audit_before ORDER BY rowid;
DROP TABLE audit_before;
