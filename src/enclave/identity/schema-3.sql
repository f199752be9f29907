-- Version 3: users sign in, and are asked into orgs.

ALTER TABLE users ADD COLUMN password TEXT;
-- Who was removed stays for what refers to them, and is a member no longer.
ALTER TABLE memberships ADD COLUMN joined_at TEXT;
ALTER TABLE memberships ADD COLUMN removed_at TEXT;

CREATE TABLE invitations (
    id         TEXT PRIMARY KEY,
    hash       BLOB NOT NULL,
    org_id     TEXT NOT NULL REFERENCES orgs (id),
    email      TEXT NOT NULL,
    role       TEXT NOT NULL,
    invited_by TEXT NOT NULL,
    expires_at REAL NOT NULL,
    used_at    TEXT
);

-- A sign-in: `hash` is of the refresh token that was given last. Any other token of it is one that was used before.
CREATE TABLE sign_ins (
    id         TEXT PRIMARY KEY,
    hash       BLOB NOT NULL,
    org_id     TEXT NOT NULL,
    user_id    TEXT NOT NULL,
    expires_at REAL NOT NULL,
    ended_at   TEXT,
    FOREIGN KEY (org_id, user_id) REFERENCES memberships (org_id, user_id)
);
CREATE INDEX sign_ins_by_end ON sign_ins (expires_at);
