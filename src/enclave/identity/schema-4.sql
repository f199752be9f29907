-- Version 4: orgs have names and can be disabled, passwords are set anew, and the operator has a credential.

ALTER TABLE orgs ADD COLUMN name TEXT NOT NULL DEFAULT 'default';
UPDATE orgs SET name = id;
ALTER TABLE orgs ADD COLUMN disabled_at TEXT;
-- The user who made it, null where the operator did: giving an org away does not make room for another.
ALTER TABLE orgs ADD COLUMN made_by TEXT REFERENCES users (id);
CREATE INDEX orgs_by_maker ON orgs (made_by);

-- What tokens name their sign-in by. Its id would let whoever reads a token end it with a refresh token made up.
ALTER TABLE sign_ins ADD COLUMN sid TEXT;
CREATE UNIQUE INDEX sign_ins_by_sid ON sign_ins (sid);

CREATE INDEX memberships_of_user ON memberships (user_id);
CREATE INDEX sign_ins_of_user ON sign_ins (user_id);
CREATE INDEX invitations_of_org ON invitations (org_id);

-- The code with which a user sets their password anew: one at a time.
CREATE TABLE resets (
    user_id    TEXT PRIMARY KEY REFERENCES users (id),
    id         TEXT NOT NULL UNIQUE,
    hash       BLOB NOT NULL,
    expires_at REAL NOT NULL
);

-- The operator's credential: one at most. `hash` as of API keys.
CREATE TABLE operator (
    id         TEXT PRIMARY KEY,
    hash       BLOB NOT NULL,
    created_at TEXT NOT NULL
);
