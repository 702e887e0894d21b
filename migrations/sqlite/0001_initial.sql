-- The first schema. Times are integer microseconds since the Unix epoch, states are small integers
-- whose meaning is an enum of the same name in the code (`src/db/state.rs`).

CREATE TABLE meta (
    name  TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;

-- One running (or once running) daemon. It keeps its claims for as long as it renews its lease.
CREATE TABLE node (
    id          INTEGER NOT NULL PRIMARY KEY,
    uid         TEXT    NOT NULL UNIQUE,
    started_at  INTEGER NOT NULL,
    lease_until INTEGER NOT NULL,
    stopped_at  INTEGER
) STRICT;

CREATE TABLE newsletter (
    id              INTEGER NOT NULL PRIMARY KEY,
    uid             TEXT    NOT NULL UNIQUE,
    slug            TEXT    NOT NULL UNIQUE,
    name            TEXT    NOT NULL,
    description     TEXT    NOT NULL,
    from_name       TEXT    NOT NULL,
    from_address    TEXT    NOT NULL,
    reply_to        TEXT    NOT NULL,
    subject_pattern TEXT    NOT NULL,
    language        TEXT    NOT NULL,
    postal_address  TEXT    NOT NULL,
    accent_color    TEXT    NOT NULL,
    per_second      REAL,
    created_at      INTEGER NOT NULL
) STRICT;

-- A person with an address. `address_hash` is a keyed hash of the case-folded address: it is how a
-- person is found, and all that is kept in `suppression` after an erasure. Ids are never used again:
-- links in old mails name them, and must not come to mean somebody else.
CREATE TABLE subscriber (
    id           INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    address      TEXT,
    address_hash BLOB    NOT NULL UNIQUE,
    name         TEXT,
    attributes   TEXT,
    provider     INTEGER NOT NULL,
    created_at   INTEGER NOT NULL,
    erased_at    INTEGER
) STRICT;

CREATE TABLE subscription (
    newsletter_id INTEGER NOT NULL REFERENCES newsletter (id),
    subscriber_id INTEGER NOT NULL REFERENCES subscriber (id),
    state         INTEGER NOT NULL CHECK (state BETWEEN 0 AND 3),
    seed          INTEGER NOT NULL DEFAULT 0 CHECK (seed IN (0, 1)),
    created_at    INTEGER NOT NULL,
    confirmed_at  INTEGER,
    ended_at      INTEGER,
    end_reason    TEXT,
    paused_until  INTEGER,
    import_id     INTEGER REFERENCES import (id),
    PRIMARY KEY (newsletter_id, subscriber_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX subscription_by_subscriber ON subscription (subscriber_id);
-- Pending and expired: what housekeeping looks through.
CREATE INDEX subscription_unconfirmed ON subscription (created_at) WHERE state IN (0, 3);

CREATE TABLE import (
    id             INTEGER NOT NULL PRIMARY KEY,
    newsletter_id  INTEGER NOT NULL REFERENCES newsletter (id),
    at             INTEGER NOT NULL,
    actor          TEXT    NOT NULL,
    file           TEXT    NOT NULL,
    consent_source TEXT    NOT NULL,
    added          INTEGER NOT NULL DEFAULT 0,
    skipped        INTEGER NOT NULL DEFAULT 0
) STRICT;

-- Addresses that must not be mailed, across all newsletters.
CREATE TABLE suppression (
    address_hash BLOB    NOT NULL PRIMARY KEY,
    address      TEXT,
    reason       TEXT    NOT NULL,
    detail       TEXT    NOT NULL DEFAULT '',
    created_at   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX suppression_by_age ON suppression (created_at);

-- Append-only evidence behind subscriptions.
CREATE TABLE consent (
    id            INTEGER NOT NULL PRIMARY KEY,
    subscriber_id INTEGER NOT NULL REFERENCES subscriber (id),
    newsletter_id INTEGER NOT NULL REFERENCES newsletter (id),
    kind          TEXT    NOT NULL,
    at            INTEGER NOT NULL,
    ip            TEXT,
    user_agent    TEXT,
    form          TEXT,
    source        TEXT,
    message_id    TEXT
) STRICT;
CREATE INDEX consent_by_subscriber ON consent (subscriber_id, id);

-- Single-purpose links that were mailed. Only the hash of a token is kept; `nonce` and the key file
-- outside the database make the same token again for a repeated sign-up. `service_id` is the mail
-- that carried the link last.
CREATE TABLE confirmation (
    id            INTEGER NOT NULL PRIMARY KEY,
    purpose       TEXT    NOT NULL CHECK (purpose IN ('subscription', 'data')),
    token_hash    BLOB    NOT NULL UNIQUE,
    nonce         BLOB    NOT NULL,
    newsletter_id INTEGER NOT NULL REFERENCES newsletter (id),
    subscriber_id INTEGER NOT NULL REFERENCES subscriber (id),
    created_at    INTEGER NOT NULL,
    expires_at    INTEGER NOT NULL,
    sent_at       INTEGER NOT NULL,
    sent_count    INTEGER NOT NULL DEFAULT 1,
    service_id    INTEGER,
    reminded_at   INTEGER,
    used_at       INTEGER
) STRICT;
CREATE INDEX confirmation_by_subscriber ON confirmation (subscriber_id, newsletter_id);
CREATE INDEX confirmation_open ON confirmation (created_at)
    WHERE used_at IS NULL AND reminded_at IS NULL;

-- Counters behind the sign-up caps: one row per scope (an IP network, a domain, an address hash,
-- everything) and day.
CREATE TABLE signup_count (
    scope TEXT    NOT NULL,
    day   INTEGER NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (scope, day)
) STRICT, WITHOUT ROWID;

-- One edition. `sends_at` is when the first copy may leave (schedule or end of the undo window).
-- `hold_after` is the stage after which a halted send that an operator widened halts again; `halt`,
-- `acknowledged` and `warnings` are findings of gates; `accepted` is counted when it is done.
CREATE TABLE issue (
    id             INTEGER NOT NULL PRIMARY KEY,
    uid            TEXT    NOT NULL UNIQUE,
    newsletter_id  INTEGER NOT NULL REFERENCES newsletter (id),
    number         INTEGER NOT NULL,
    subject        TEXT    NOT NULL,
    state          INTEGER NOT NULL CHECK (state BETWEEN 0 AND 6),
    model          TEXT    NOT NULL,
    source         TEXT    NOT NULL,
    created_at     INTEGER NOT NULL,
    planned_at     INTEGER,
    sends_at       INTEGER,
    started_at     INTEGER,
    expires_at     INTEGER,
    finished_at    INTEGER,
    stage          INTEGER NOT NULL DEFAULT -1,
    stage_since    INTEGER,
    halt           TEXT,
    acknowledged   TEXT    NOT NULL DEFAULT '[]',
    warnings       TEXT    NOT NULL DEFAULT '[]',
    plan           TEXT,
    first_event_id INTEGER,
    asked_by       TEXT,
    approved_by    TEXT,
    approved_at    INTEGER,
    hold_after     INTEGER,
    accepted       INTEGER,
    UNIQUE (newsletter_id, number)
) STRICT;
CREATE INDEX issue_in_motion ON issue (state) WHERE state > 0 AND finished_at IS NULL;

-- Idempotency keys of programs that ask for sends: a key starts one send of one text, for good.
CREATE TABLE trigger_key (
    key      TEXT    NOT NULL PRIMARY KEY,
    issue_id INTEGER NOT NULL REFERENCES issue (id),
    digest   BLOB    NOT NULL,
    at       INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What a copy is made from, rendered once when the send was asked for: a restart or an upgrade in
-- the middle of a send cannot change what the rest of the readers get.
CREATE TABLE issue_content (
    issue_id INTEGER NOT NULL PRIMARY KEY REFERENCES issue (id),
    content  TEXT    NOT NULL
) STRICT;

-- `released_at` is when the stage's copies were due for the first time.
CREATE TABLE issue_stage (
    issue_id    INTEGER NOT NULL REFERENCES issue (id),
    stage       INTEGER NOT NULL,
    name        TEXT    NOT NULL,
    size        INTEGER NOT NULL,
    released_at INTEGER,
    PRIMARY KEY (issue_id, stage)
) STRICT, WITHOUT ROWID;

-- Providers whose copies of an issue stay at an earlier stage than the others': what they do with the
-- stage that the others left is not known yet, because they are down or put everything off.
CREATE TABLE held_provider (
    issue_id INTEGER NOT NULL REFERENCES issue (id),
    provider INTEGER NOT NULL,
    stage    INTEGER NOT NULL,
    since    INTEGER NOT NULL,
    PRIMARY KEY (issue_id, provider)
) STRICT, WITHOUT ROWID;

-- Which data this is, and how many commits handed copies off: a file beside the database keeps the same
-- number, by which an older database that was put back by hand is noticed.
CREATE TABLE lineage (
    id       INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    uid      TEXT    NOT NULL,
    handoffs INTEGER NOT NULL
) STRICT;

-- One node's hold on a batch of deliveries. Ids grow by one per claim: a delivery row names the
-- claim that holds it, so a stale claim matches no row.
CREATE TABLE claim (
    id      INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    node_id INTEGER NOT NULL REFERENCES node (id),
    at      INTEGER NOT NULL
) STRICT;

-- The ledger: one row per copy of an issue. `due_at` is null until a first attempt was put off, so
-- the index below holds only rows that wait for a retry.
CREATE TABLE delivery (
    issue_id      INTEGER NOT NULL,
    subscriber_id INTEGER NOT NULL,
    state         INTEGER NOT NULL CHECK (state BETWEEN 0 AND 8),
    stage         INTEGER NOT NULL,
    provider      INTEGER NOT NULL,
    attempt       INTEGER NOT NULL DEFAULT 0,
    claim_id      INTEGER,
    due_at        INTEGER,
    reason        TEXT,
    PRIMARY KEY (issue_id, subscriber_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX delivery_due ON delivery (issue_id, due_at) WHERE state = 0 AND due_at IS NOT NULL;

-- Confirmations and other mail that one person's act causes; same states as a delivery.
CREATE TABLE service_mail (
    id            INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    kind          TEXT    NOT NULL,
    newsletter_id INTEGER REFERENCES newsletter (id),
    subscriber_id INTEGER REFERENCES subscriber (id),
    address       TEXT    NOT NULL,
    provider      INTEGER NOT NULL,
    parameters    TEXT    NOT NULL,
    state         INTEGER NOT NULL CHECK (state BETWEEN 0 AND 8),
    attempt       INTEGER NOT NULL DEFAULT 0,
    claim_id      INTEGER,
    due_at        INTEGER NOT NULL,
    created_at    INTEGER NOT NULL,
    expires_at    INTEGER NOT NULL,
    reason        TEXT
) STRICT;
CREATE INDEX service_mail_due ON service_mail (due_at) WHERE state = 0;
CREATE INDEX service_mail_in_flight ON service_mail (claim_id) WHERE state IN (1, 2);
CREATE INDEX service_mail_by_subscriber ON service_mail (subscriber_id);

-- The delivery log: one row per fact. A try is one row, its outcome's: how long before `at` the copy
-- was due, claimed and handed off stands in it, so that three facts cost one row.
CREATE TABLE event (
    id            INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    at            INTEGER NOT NULL,
    kind          INTEGER NOT NULL,
    issue_id      INTEGER,
    subscriber_id INTEGER,
    service_id    INTEGER,
    attempt       INTEGER,
    node_id       INTEGER,
    relay         TEXT,
    -- The mail server of the reader's domain, where the copy was brought there directly.
    host          TEXT,
    provider      INTEGER,
    session       INTEGER,
    phase         TEXT,
    code          INTEGER,
    enhanced      TEXT,
    text          TEXT,
    class         TEXT,
    rule          TEXT,
    duration_us   INTEGER,
    bytes         INTEGER,
    due_us        INTEGER,
    claimed_us    INTEGER,
    handed_us     INTEGER
) STRICT;
CREATE INDEX event_by_subscriber ON event (subscriber_id, id) WHERE subscriber_id IS NOT NULL;
-- Everything but plain acceptance (kind 2): failures are rare, and are what people look for.
CREATE INDEX event_by_issue ON event (issue_id, kind) WHERE kind <> 2;

-- Webhooks of others that the log is posted to: the line up to which they took it, and up to which the
-- batch under way reaches. Whatever is posted again has the same id, made of `uid` and that line.
CREATE TABLE webhook (
    name          TEXT    NOT NULL PRIMARY KEY,
    uid           TEXT    NOT NULL,
    sent_to       INTEGER NOT NULL,
    batch_to      INTEGER,
    events        INTEGER NOT NULL DEFAULT 0,
    delivered_at  INTEGER,
    failing_since INTEGER,
    problem       TEXT
) STRICT, WITHOUT ROWID;

-- Failed issues that count towards a suppression, at most one row per issue. `half`: nobody knows
-- why it failed. `worded_dead`: it said, in words alone, that the address is dead.
CREATE TABLE soft_bounce (
    subscriber_id INTEGER NOT NULL REFERENCES subscriber (id),
    issue_id      INTEGER NOT NULL,
    at            INTEGER NOT NULL,
    half          INTEGER NOT NULL CHECK (half IN (0, 1)),
    worded_dead   INTEGER NOT NULL CHECK (worded_dead IN (0, 1)),
    fault         TEXT    NOT NULL,
    PRIMARY KEY (subscriber_id, issue_id)
) STRICT, WITHOUT ROWID;

-- How many addresses of one provider one issue found dead. `decided` is the number of that
-- provider's copies with a known fate when `counted_at` addresses were dead: counted anew now and
-- then only, because counting reads the whole issue.
CREATE TABLE dead_address_count (
    issue_id   INTEGER NOT NULL,
    provider   INTEGER NOT NULL,
    dead       INTEGER NOT NULL,
    counted_at INTEGER NOT NULL DEFAULT 0,
    decided    INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (issue_id, provider)
) STRICT, WITHOUT ROWID;

-- Suppressions that wait for an operator, because too many addresses of one provider failed at once.
CREATE TABLE held_suppression (
    subscriber_id INTEGER NOT NULL PRIMARY KEY REFERENCES subscriber (id),
    issue_id      INTEGER NOT NULL,
    provider      INTEGER NOT NULL,
    at            INTEGER NOT NULL,
    detail        TEXT    NOT NULL
) STRICT;
CREATE INDEX held_suppression_by_issue ON held_suppression (issue_id, provider);

-- What came in, kept for 30 days.
CREATE TABLE inbound_mail (
    id            INTEGER NOT NULL PRIMARY KEY,
    received_at   INTEGER NOT NULL,
    source        TEXT    NOT NULL,
    mail_from     TEXT    NOT NULL,
    rcpt_to       TEXT    NOT NULL,
    kind          TEXT    NOT NULL,
    effect        TEXT    NOT NULL,
    issue_id      INTEGER,
    subscriber_id INTEGER,
    raw           BLOB    NOT NULL
) STRICT;
CREATE INDEX inbound_mail_by_age ON inbound_mail (received_at);
CREATE INDEX inbound_mail_by_subscriber ON inbound_mail (subscriber_id)
    WHERE subscriber_id IS NOT NULL;

-- Mailboxes that returned mail is fetched from: up to which UID a folder was dealt with, as long as its
-- UIDVALIDITY stays the same (RFC 3501), and the names of mails that were left where they are.
CREATE TABLE mailbox_cursor (
    mailbox      TEXT    NOT NULL,
    folder       TEXT    NOT NULL,
    uid_validity INTEGER NOT NULL,
    uid          INTEGER NOT NULL,
    PRIMARY KEY (mailbox, folder)
) STRICT, WITHOUT ROWID;

CREATE TABLE mailbox_left (
    mailbox TEXT    NOT NULL,
    name    TEXT    NOT NULL,
    left_at INTEGER NOT NULL,
    PRIMARY KEY (mailbox, name)
) STRICT, WITHOUT ROWID;

-- Events of providers that were taken before, by a hash of the webhook and the provider's number of the
-- event: one that comes again does nothing. Kept as long as the mails above.
CREATE TABLE seen_event (
    digest  BLOB    NOT NULL PRIMARY KEY,
    seen_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX seen_event_by_age ON seen_event (seen_at);

-- How far each rate limit has been used (GCRA: theoretical arrival time), so that a restart grants
-- no new allowance.
CREATE TABLE rate_limit (
    name TEXT    NOT NULL PRIMARY KEY,
    tat  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- How far each relay and provider under a warm-up ramp have come: the first day that they were used
-- together, and the copies of the latest day. Days are counted from the Unix epoch, in UTC.
CREATE TABLE warm_up (
    relay     TEXT    NOT NULL,
    provider  INTEGER NOT NULL,
    first_day INTEGER NOT NULL,
    day       INTEGER NOT NULL,
    copies    INTEGER NOT NULL,
    PRIMARY KEY (relay, provider)
) STRICT, WITHOUT ROWID;

-- What domains demand of those who bring them mail (MTA-STS, RFC 8461): the policy as it was fetched,
-- and the id under which DNS announced it. Kept until it expires, whatever DNS says meanwhile.
CREATE TABLE mta_sts_policy (
    domain     TEXT    NOT NULL PRIMARY KEY,
    policy_id  TEXT    NOT NULL,
    policy     TEXT    NOT NULL,
    fetched_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Which provider runs the mail servers of a domain that the provider table does not have, as DNS said.
CREATE TABLE domain_provider (
    domain     TEXT    NOT NULL PRIMARY KEY,
    provider   INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE relay_state (
    name            TEXT    NOT NULL PRIMARY KEY,
    suspended_at    INTEGER,
    suspended_by    TEXT,
    suspended_reason TEXT
) STRICT, WITHOUT ROWID;

CREATE TABLE user (
    id            INTEGER NOT NULL PRIMARY KEY,
    name          TEXT    NOT NULL UNIQUE,
    password_hash TEXT    NOT NULL,
    role          TEXT    NOT NULL,
    created_at    INTEGER NOT NULL,
    disabled_at   INTEGER
) STRICT;

CREATE TABLE web_session (
    token_hash BLOB    NOT NULL PRIMARY KEY,
    user_id    INTEGER NOT NULL REFERENCES user (id),
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE audit (
    id     INTEGER NOT NULL PRIMARY KEY,
    at     INTEGER NOT NULL,
    actor  TEXT    NOT NULL,
    action TEXT    NOT NULL,
    target TEXT    NOT NULL,
    detail TEXT    NOT NULL
) STRICT;
