-- Bundled credits, refunds, how long a request took, answers kept for idempotency keys, and when a
-- key was last used. The tables whose CHECK constraints change are written anew.

CREATE TABLE new_entry (
    seq           INTEGER PRIMARY KEY,
    request_id    TEXT NOT NULL,
    kind          TEXT NOT NULL CHECK (kind IN ('charge', 'refund', 'credit', 'diem_grant', 'adjust')),
    line          TEXT NOT NULL,
    account_id    TEXT NOT NULL REFERENCES account (id),
    debit         TEXT NOT NULL,
    credit        TEXT NOT NULL,
    currency      TEXT NOT NULL CHECK (currency IN ('DIEM', 'BUNDLED_CREDITS', 'USD')),
    window        TEXT NOT NULL CHECK ((window = '') = (currency <> 'DIEM')),
    amount        INTEGER NOT NULL CHECK (amount > 0),
    units         INTEGER NOT NULL CHECK (units >= 0),
    key_id        TEXT REFERENCES api_key (id),
    key_window    TEXT NOT NULL CHECK ((key_window = '') = (key_id IS NULL)),
    price_version TEXT NOT NULL,
    created_ns    INTEGER NOT NULL,
    reason        TEXT NOT NULL,
    CHECK ((debit = 'funds') <> (credit = 'funds')),
    CHECK (debit IN ('funds', 'revenue', 'funding', 'diem_grant', 'adjustment')),
    CHECK (credit IN ('funds', 'revenue', 'diem_grant', 'adjustment')),
    CHECK ((debit = 'revenue') = (kind = 'refund')),
    UNIQUE (request_id, kind, line)
) STRICT;
INSERT INTO new_entry SELECT * FROM entry ORDER BY seq;
DROP TABLE entry;
ALTER TABLE new_entry RENAME TO entry;

CREATE TRIGGER entry_is_never_changed BEFORE UPDATE ON entry
BEGIN SELECT raise(ABORT, 'entries are append-only'); END;

CREATE TRIGGER entry_is_never_deleted BEFORE DELETE ON entry
BEGIN SELECT raise(ABORT, 'entries are append-only'); END;

CREATE INDEX diem_grant_of_window ON entry (window, account_id, amount) WHERE kind = 'diem_grant';

-- The history that an account's owner pages through, oldest first.
CREATE INDEX usage_entry_of_account ON entry (account_id, created_ns, seq)
WHERE kind IN ('charge', 'refund');

CREATE INDEX refund_of_request ON entry (request_id, amount) WHERE kind = 'refund';

CREATE TABLE new_balance (
    account_id TEXT NOT NULL REFERENCES account (id),
    currency   TEXT NOT NULL CHECK (currency IN ('DIEM', 'BUNDLED_CREDITS', 'USD')),
    window     TEXT NOT NULL CHECK ((window = '') = (currency <> 'DIEM')),
    amount     INTEGER NOT NULL,
    PRIMARY KEY (account_id, currency, window)
) STRICT, WITHOUT ROWID;
INSERT INTO new_balance SELECT * FROM balance;
DROP TABLE balance;
ALTER TABLE new_balance RENAME TO balance;

CREATE TABLE new_usage (
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
    currency          TEXT CHECK (currency IN ('DIEM', 'BUNDLED_CREDITS', 'USD')),
    priced            INTEGER NOT NULL CHECK (priced >= 0),
    charged           INTEGER NOT NULL CHECK (charged BETWEEN 0 AND priced),
    created_ns        INTEGER NOT NULL,
    -- From admission to the charge; NULL where an older version wrote the record.
    duration_ms       INTEGER CHECK (duration_ms >= 0)
) STRICT;
INSERT INTO new_usage SELECT *, NULL FROM usage ORDER BY seq;
DROP TABLE usage;
ALTER TABLE new_usage RENAME TO usage;
-- Its index went with it: histories are read by entry, so nothing looks for usage by account.

CREATE TABLE new_hold (
    request_id TEXT NOT NULL PRIMARY KEY,
    account_id TEXT NOT NULL REFERENCES account (id),
    key_id     TEXT NOT NULL REFERENCES api_key (id),
    currency   TEXT NOT NULL CHECK (currency IN ('DIEM', 'BUNDLED_CREDITS', 'USD')),
    window     TEXT NOT NULL CHECK ((window = '') = (currency <> 'DIEM')),
    key_window TEXT NOT NULL CHECK (key_window GLOB 'E:????-??-??'),
    amount     INTEGER NOT NULL CHECK (amount > 0),
    created_ns INTEGER NOT NULL,
    expires_ns INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO new_hold SELECT * FROM hold;
DROP TABLE hold;
ALTER TABLE new_hold RENAME TO hold;

-- A limit may be larger than a column holds (about 9.2e9 USD): the rest of it is here.
ALTER TABLE api_key ADD COLUMN usd_limit_rest INTEGER NOT NULL DEFAULT 0 CHECK (usd_limit_rest >= 0);
ALTER TABLE api_key ADD COLUMN diem_limit_rest INTEGER NOT NULL DEFAULT 0 CHECK (diem_limit_rest >= 0);

CREATE INDEX api_key_of_account ON api_key (account_id);

-- When a key was last presented, to the minute.
CREATE TABLE key_use (
    key_id  TEXT NOT NULL PRIMARY KEY REFERENCES api_key (id),
    used_ns INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Answers that are given again to a request with the same Idempotency-Key. They are encrypted under
-- a key that only their caller can derive; NULL stands for one that is too large to be kept.
CREATE TABLE kept_answer (
    handle      BLOB NOT NULL PRIMARY KEY CHECK (length(handle) = 32),
    key_id      TEXT NOT NULL REFERENCES api_key (id),
    fingerprint BLOB NOT NULL CHECK (length(fingerprint) = 32),
    sealed      BLOB,
    expires_ns  INTEGER NOT NULL,
    bytes       INTEGER NOT NULL CHECK (bytes = coalesce(length(sealed), 0))
) STRICT;
-- All that a start reads of them.
CREATE INDEX kept_answer_by_expiry ON kept_answer (expires_ns, key_id, bytes);
