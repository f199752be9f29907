-- Version 1. What is compared or ordered is so byte by byte ("C"), as Python does it, wherever the database was made.
-- JSON is kept as text: a digest is taken of the very bytes, and `jsonb` refuses U+0000 besides.

-- Control planes that share the database. `seen_at` is of the database's clock, the one that they have in common.
CREATE TABLE replicas (
    id      text COLLATE "C" PRIMARY KEY,
    seen_at timestamptz NOT NULL
);

-- `doc` is the session's JSON without its result; the columns before it are copies, for finding. `owner` is the replica
-- that runs it or ran it.
CREATE TABLE sessions (
    id         text COLLATE "C" PRIMARY KEY,
    org_id     text COLLATE "C" NOT NULL,
    created_by text NOT NULL,
    created_at text NOT NULL,
    phase      text COLLATE "C" NOT NULL,
    doc        text NOT NULL,
    result     text,
    owner      text COLLATE "C" NOT NULL
) WITH (fillfactor = 80);
CREATE INDEX sessions_of_org ON sessions (org_id, id);
CREATE INDEX sessions_of_org_in_phase ON sessions (org_id, phase, id);
CREATE INDEX sessions_unsettled ON sessions (id) WHERE phase IN ('pending', 'running');

-- Bytes, because a value may hold what `text` cannot: U+0000.
CREATE TABLE labels (
    org_id     text COLLATE "C" NOT NULL,
    name       bytea NOT NULL,
    value      bytea NOT NULL,
    session_id text COLLATE "C" NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    PRIMARY KEY (org_id, name, value, session_id)
);
CREATE INDEX labels_of_session ON labels (session_id);

-- Where each org's chain ends. Whoever writes anything of an org holds its row until the transaction ends, and rows of
-- many orgs are taken in their order: so chains have one writer at a time, and writers never wait in a circle. `moved` is
-- the transaction that the row was last changed in.
CREATE TABLE heads (
    org_id text COLLATE "C" PRIMARY KEY,
    seq    bigint NOT NULL DEFAULT 0,
    digest text NOT NULL DEFAULT repeat('0', 64),
    moved  bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
CREATE INDEX heads_moved ON heads (moved);

-- `body` is the exact text that `digest` is the SHA-256 of, so that the chain can be checked without Enclave.
CREATE TABLE audit (
    org_id     text COLLATE "C" NOT NULL,
    seq        bigint NOT NULL CHECK (seq > 0),
    session_id text COLLATE "C",
    type       text NOT NULL,
    ts         text NOT NULL,
    body       text NOT NULL,
    previous   text NOT NULL,
    digest     text NOT NULL CONSTRAINT audit_digest_is_of_body CHECK (digest = encode(sha256(convert_to(body, 'UTF8')), 'hex')),
    PRIMARY KEY (org_id, seq)
);
CREATE INDEX audit_of_session ON audit (session_id, seq);

-- `doc` is the binding's JSON without who made it and when. `sealed` is its secret, encrypted with a key that is not in
-- this database, and bound to `org_id` and every byte of `doc`: neither can be changed under it.
CREATE TABLE bindings (
    org_id     text COLLATE "C" NOT NULL,
    name       text COLLATE "C" NOT NULL,
    doc        text NOT NULL,
    sealed     bytea NOT NULL,
    created_at text NOT NULL,
    created_by text NOT NULL,
    updated_at text NOT NULL,
    PRIMARY KEY (org_id, name)
);
-- Names that sessions would find in one environment variable.
CREATE UNIQUE INDEX bindings_by_variable ON bindings (org_id, replace(name, '-', '_'));

-- What the events that come from elsewhere were known by there, so that none is in the chain twice.
CREATE TABLE noted (
    key text COLLATE "C" PRIMARY KEY
);

-- Where sessions are posted when they are over: `sealed` is the whole URL, encrypted as secrets are, and bound to
-- `session_id` and `host`. Without a `phase` the session goes on; with `due_at` it is still to be sent, by nobody else
-- until `claimed_until`. Moments are POSIX seconds.
CREATE TABLE deliveries (
    session_id    text COLLATE "C" PRIMARY KEY REFERENCES sessions (id) ON DELETE CASCADE,
    org_id        text COLLATE "C" NOT NULL,
    host          text COLLATE "C" NOT NULL,
    sealed        bytea NOT NULL,
    phase         text COLLATE "C",
    created_at    double precision,
    due_at        double precision,
    claimed_until double precision,
    attempts      integer NOT NULL DEFAULT 0,
    attempted_at  double precision,
    status        integer,
    error         text,
    delivered_at  double precision
);
CREATE INDEX deliveries_due ON deliveries (org_id, host, due_at, session_id) WHERE due_at IS NOT NULL;
CREATE INDEX deliveries_of_org ON deliveries (org_id, session_id) WHERE phase IS NOT NULL;

-- What webhooks are signed with, encrypted as secrets are; one that was replaced signs `until` then.
CREATE TABLE webhook_secrets (
    org_id     text COLLATE "C" NOT NULL,
    created_at text COLLATE "C" NOT NULL,
    sealed     bytea NOT NULL,
    until      double precision,
    PRIMARY KEY (org_id, created_at)
);

-- What the operator grants orgs, as JSON; of `default`, which no org is called, to every org that has no row.
CREATE TABLE terms (
    org_id text COLLATE "C" PRIMARY KEY,
    doc    text NOT NULL
);
CREATE TABLE policies (
    org_id text COLLATE "C" PRIMARY KEY,
    doc    text NOT NULL
);

-- What the sessions of an org used on a day of UTC, summed up.
CREATE TABLE usage (
    org_id       text COLLATE "C" NOT NULL,
    day          text COLLATE "C" NOT NULL,
    cpu_seconds  double precision NOT NULL,
    egress_bytes bigint NOT NULL,
    PRIMARY KEY (org_id, day)
);

-- Keys that requests were made safe to repeat by: the session that each brought into being, the digest of the request,
-- and when (POSIX seconds).
CREATE TABLE claims (
    org_id     text COLLATE "C" NOT NULL,
    key        text COLLATE "C" NOT NULL,
    session_id text COLLATE "C" NOT NULL,
    digest     text NOT NULL,
    made_at    double precision NOT NULL,
    PRIMARY KEY (org_id, key)
);
CREATE INDEX claims_by_age ON claims (made_at);

-- What attests entries that were removed for their age: `doc` is signed, says up to which, and is not removed.
CREATE TABLE tombstones (
    org_id text COLLATE "C" NOT NULL,
    seq    bigint NOT NULL,
    doc    text NOT NULL,
    PRIMARY KEY (org_id, seq)
);

-- Sessions that somebody wants torn down on whose replica the request did not arrive.
CREATE TABLE wishes (
    session_id text COLLATE "C" PRIMARY KEY REFERENCES sessions (id) ON DELETE CASCADE,
    org_id     text COLLATE "C" NOT NULL,
    actor      text NOT NULL,
    made_at    timestamptz NOT NULL DEFAULT now()
);

CREATE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    RAISE EXCEPTION 'the audit trail is append-only' USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER audit_is_not_changed BEFORE UPDATE OR TRUNCATE ON audit
    FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only();
CREATE TRIGGER tombstones_stay BEFORE UPDATE OR DELETE OR TRUNCATE ON tombstones
    FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only();

-- Only what a tombstone attests can be removed.
CREATE FUNCTION audit_is_not_erased() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF EXISTS (
        SELECT FROM removed WHERE NOT EXISTS (
            SELECT FROM tombstones WHERE tombstones.org_id = removed.org_id AND tombstones.seq >= removed.seq)
    ) THEN
        RAISE EXCEPTION 'the audit trail is append-only' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER audit_is_not_erased AFTER DELETE ON audit
    REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION audit_is_not_erased();

-- Of all rows that a statement adds, each must be the first of its org or lie on the one before it: with the primary key
-- there is no gap, no second version and no fork.
CREATE FUNCTION audit_has_no_gap() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF EXISTS (
        SELECT FROM added LEFT JOIN audit AS before ON before.org_id = added.org_id AND before.seq = added.seq - 1
        WHERE added.previous IS DISTINCT FROM coalesce(before.digest, CASE
            WHEN added.seq = 1 AND NOT EXISTS (SELECT FROM tombstones WHERE tombstones.org_id = added.org_id)
            THEN repeat('0', 64) END)
    ) THEN
        RAISE EXCEPTION 'the audit trail has no gap and no second version' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER audit_is_a_chain AFTER INSERT ON audit
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION audit_has_no_gap();

-- Also in a session that says it is a replication's (`session_replication_role`).
ALTER TABLE audit ENABLE ALWAYS TRIGGER audit_is_not_changed;
ALTER TABLE audit ENABLE ALWAYS TRIGGER audit_is_not_erased;
ALTER TABLE tombstones ENABLE ALWAYS TRIGGER tombstones_stay;
ALTER TABLE audit ENABLE ALWAYS TRIGGER audit_is_a_chain;

-- Everything that a transaction writes of chains and sessions, if these are as whoever writes expects: false, and nothing is
-- written, if an end or a phase is another. Rows of `heads` are locked, or made, in the order in which they are given.
CREATE FUNCTION enclave_write(
    text[], bigint[], text[], -- the ends of the chains
    text[], text[], text[], -- the sessions that there are: id, org, phase
    text[], text[], text[], text[], text[], text[], text[], text, -- sessions to be made, and their owner
    text[], text[], text[], text[], -- sessions to be moved
    text[], bytea[], bytea[], text[], -- labels
    text[], bigint[], text[], text[], text[], text[], text[], text[], -- entries of the trail
    text[], bigint[], text[], -- where the chains end then
    text[], text[], double precision[], bigint[], -- what is used
    text[], -- whom to tell of
    text[], text[], text[], bytea[], text[], double precision[], double precision[], -- webhooks
    text[], text[], double precision[] -- sessions that are over, whose webhooks are due
) RETURNS boolean LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    same bigint;
BEGIN
    WITH held AS (
        INSERT INTO heads (org_id) SELECT unnest($1)
        ON CONFLICT (org_id) DO UPDATE SET org_id = excluded.org_id RETURNING org_id, seq, digest
    )
    SELECT count(*) INTO same FROM held JOIN unnest($1, $2, $3) AS expected (org_id, seq, digest)
        ON held.org_id = expected.org_id AND held.seq = expected.seq AND held.digest = expected.digest;
    IF same <> cardinality($1) THEN
        RETURN false;
    END IF;
    -- Only now: what others wrote before they let go of the chains is to be seen.
    IF EXISTS (SELECT FROM sessions WHERE id = ANY ($7)) OR EXISTS (
        SELECT FROM unnest($4, $5, $6) AS expected (id, org_id, phase) LEFT JOIN sessions ON sessions.id = expected.id
        WHERE (sessions.org_id, sessions.phase) IS DISTINCT FROM (expected.org_id, expected.phase)
    ) THEN
        RETURN false;
    END IF;
    WITH created AS (
        INSERT INTO sessions (id, org_id, created_by, created_at, phase, doc, result, owner)
        SELECT *, $14 FROM unnest($7, $8, $9, $10, $11, $12, $13)
    ), moved AS (
        UPDATE sessions SET phase = new.phase, doc = new.doc, result = new.result
        FROM unnest($15, $16, $17, $18) AS new (id, phase, doc, result) WHERE sessions.id = new.id
    ), labelled AS (
        INSERT INTO labels (org_id, name, value, session_id) SELECT * FROM unnest($19, $20, $21, $22)
    ), appended AS (
        INSERT INTO audit (org_id, seq, session_id, type, ts, body, previous, digest)
        SELECT * FROM unnest($23, $24, $25, $26, $27, $28, $29, $30)
    ), used AS (
        INSERT INTO usage (org_id, day, cpu_seconds, egress_bytes) SELECT * FROM unnest($34, $35, $36, $37)
        ON CONFLICT (org_id, day) DO UPDATE
        SET cpu_seconds = usage.cpu_seconds + excluded.cpu_seconds,
            egress_bytes = usage.egress_bytes + excluded.egress_bytes
    ), posted AS (
        INSERT INTO deliveries (session_id, org_id, host, sealed, phase, created_at, due_at)
        SELECT * FROM unnest($39, $40, $41, $42, $43, $44, $45)
    ), ended AS (
        UPDATE deliveries SET phase = new.phase, created_at = new.at, due_at = new.at
        FROM unnest($46, $47, $48) AS new (id, phase, at) WHERE deliveries.session_id = new.id
    )
    UPDATE heads SET seq = new.seq, digest = new.digest, moved = pg_current_xact_id()::text::bigint
    FROM unnest($31, $32, $33) AS new (org_id, seq, digest) WHERE heads.org_id = new.org_id;
    PERFORM pg_notify('enclave_session', payload) FROM unnest($38) AS payload;
    RETURN true;
END $$;
