-- The books. Amounts are nano_usd in 64-bit integers; STRICT refuses what overflows into a float.
-- Times are UTC nanoseconds. A DIEM window is 'E:2026-11-23'; the USD window is ''.

CREATE TABLE meta (
    name  TEXT NOT NULL PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Fencing: a process that opens the books for writing adds one; an older writer then stops.
INSERT INTO meta VALUES ('generation', 0);

CREATE TABLE account (
    id                    TEXT NOT NULL PRIMARY KEY,
    name                  TEXT NOT NULL UNIQUE,
    is_pro                INTEGER NOT NULL CHECK (is_pro IN (0, 1)),
    subscription_required INTEGER NOT NULL CHECK (subscription_required IN (0, 1)),
    subscription_active   INTEGER NOT NULL CHECK (subscription_active IN (0, 1)),
    disabled              INTEGER NOT NULL CHECK (disabled IN (0, 1)),
    tier                  TEXT NOT NULL,
    features              TEXT NOT NULL CHECK (json_valid(features)),
    created_ns            INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE api_key (
    id            TEXT NOT NULL PRIMARY KEY,
    account_id    TEXT NOT NULL REFERENCES account (id),
    kind          TEXT NOT NULL CHECK (kind IN ('INFERENCE', 'ADMIN')),
    description   TEXT NOT NULL,
    last_six      TEXT NOT NULL CHECK (length(last_six) = 6),
    usd_limit     INTEGER CHECK (usd_limit >= 0),
    diem_limit    INTEGER CHECK (diem_limit >= 0),
    period        TEXT NOT NULL CHECK (period IN ('EPOCH', 'MONTH', 'LIFETIME')),
    model_privacy TEXT NOT NULL,
    expires_ns    INTEGER,
    openai_errors INTEGER NOT NULL CHECK (openai_errors IN (0, 1)),
    digest        BLOB NOT NULL UNIQUE CHECK (length(digest) = 32),
    created_ns    INTEGER NOT NULL,
    revoked       INTEGER NOT NULL CHECK (revoked IN (0, 1))
) STRICT, WITHOUT ROWID;

-- DIEM granted to an account at the start of every UTC day.
CREATE TABLE diem_allocation (
    account_id TEXT NOT NULL PRIMARY KEY REFERENCES account (id),
    amount     INTEGER NOT NULL CHECK (amount >= 0)
) STRICT, WITHOUT ROWID;

-- Double entry, append-only: each row moves `amount` from `debit` to `credit`, and exactly one of
-- the two is the customer's funds. A correction is a new row.
CREATE TABLE entry (
    seq           INTEGER PRIMARY KEY,
    request_id    TEXT NOT NULL,
    kind          TEXT NOT NULL CHECK (kind IN ('charge', 'credit', 'diem_grant', 'adjust')),
    line          TEXT NOT NULL,
    account_id    TEXT NOT NULL REFERENCES account (id),
    debit         TEXT NOT NULL,
    credit        TEXT NOT NULL,
    currency      TEXT NOT NULL CHECK (currency IN ('DIEM', 'USD')),
    window        TEXT NOT NULL CHECK ((window = '') = (currency = 'USD')),
    amount        INTEGER NOT NULL CHECK (amount > 0),
    units         INTEGER NOT NULL CHECK (units >= 0),
    key_id        TEXT REFERENCES api_key (id),
    key_window    TEXT NOT NULL CHECK ((key_window = '') = (key_id IS NULL)),
    price_version TEXT NOT NULL,
    created_ns    INTEGER NOT NULL,
    reason        TEXT NOT NULL,
    CHECK ((debit = 'funds') <> (credit = 'funds')),
    CHECK (debit IN ('funds', 'funding', 'diem_grant', 'adjustment')),
    CHECK (credit IN ('funds', 'revenue', 'diem_grant', 'adjustment')),
    UNIQUE (request_id, kind, line)
) STRICT;

CREATE TRIGGER entry_is_never_changed BEFORE UPDATE ON entry
BEGIN SELECT raise(ABORT, 'entries are append-only'); END;

CREATE TRIGGER entry_is_never_deleted BEFORE DELETE ON entry
BEGIN SELECT raise(ABORT, 'entries are append-only'); END;

-- A projection of the entries, kept in the same transaction.
CREATE TABLE balance (
    account_id TEXT NOT NULL REFERENCES account (id),
    currency   TEXT NOT NULL CHECK (currency IN ('DIEM', 'USD')),
    window     TEXT NOT NULL CHECK ((window = '') = (currency = 'USD')),
    amount     INTEGER NOT NULL,
    PRIMARY KEY (account_id, currency, window)
) STRICT, WITHOUT ROWID;

-- A projection of the charges: what each key spent per UTC day.
CREATE TABLE key_spend (
    key_id   TEXT NOT NULL REFERENCES api_key (id),
    currency TEXT NOT NULL CHECK (currency IN ('DIEM', 'USD')),
    window   TEXT NOT NULL CHECK (window GLOB 'E:????-??-??'),
    spent    INTEGER NOT NULL CHECK (spent >= 0),
    PRIMARY KEY (key_id, currency, window)
) STRICT, WITHOUT ROWID;

CREATE TABLE usage (
    seq               INTEGER PRIMARY KEY,
    request_id        TEXT NOT NULL UNIQUE,
    account_id        TEXT NOT NULL REFERENCES account (id),
    key_id            TEXT NOT NULL REFERENCES api_key (id),
    model             TEXT NOT NULL,
    prompt_tokens     INTEGER NOT NULL CHECK (prompt_tokens >= 0),
    completion_tokens INTEGER NOT NULL CHECK (completion_tokens >= 0),
    cached_tokens     INTEGER NOT NULL CHECK (cached_tokens >= 0),
    reasoning_tokens  INTEGER NOT NULL CHECK (reasoning_tokens >= 0),
    basis             TEXT NOT NULL CHECK (basis IN ('backend', 'counted', 'none')),
    streamed          INTEGER NOT NULL CHECK (streamed IN (0, 1)),
    currency          TEXT CHECK (currency IN ('DIEM', 'USD')),
    priced            INTEGER NOT NULL CHECK (priced >= 0),
    charged           INTEGER NOT NULL CHECK (charged BETWEEN 0 AND priced),
    created_ns        INTEGER NOT NULL
) STRICT;

CREATE INDEX usage_of_account ON usage (account_id, created_ns);

-- Funds set aside for requests whose first byte may have left; empty when nothing is running.
CREATE TABLE hold (
    request_id TEXT NOT NULL PRIMARY KEY,
    account_id TEXT NOT NULL REFERENCES account (id),
    key_id     TEXT NOT NULL REFERENCES api_key (id),
    currency   TEXT NOT NULL CHECK (currency IN ('DIEM', 'USD')),
    window     TEXT NOT NULL CHECK ((window = '') = (currency = 'USD')),
    key_window TEXT NOT NULL CHECK (key_window GLOB 'E:????-??-??'),
    amount     INTEGER NOT NULL CHECK (amount > 0),
    created_ns INTEGER NOT NULL,
    expires_ns INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
