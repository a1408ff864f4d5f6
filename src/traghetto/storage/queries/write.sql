-- Every statement of the writer. ?1 is a JSON array with one array per row, so that a batch of any
-- size is one step of the database engine, during which the interpreter is free for requests.
-- (Statements about kept answers have plain parameters.)

-- name: read_generation
-- The fencing number: another value than ours means that somebody else owns the books.
SELECT value FROM meta WHERE name = 'generation';

-- name: next_generation
-- Take over the books from every earlier writer.
UPDATE meta SET value = value + 1 WHERE name = 'generation' RETURNING value;

-- name: save_accounts
-- Create accounts or replace what is known of them.
INSERT INTO account (id, name, is_pro, subscription_required, subscription_active, disabled, tier,
                     features, created_ns)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6,
       value -> 7, value ->> 8
FROM json_each(?1) WHERE true
ON CONFLICT (id) DO UPDATE SET
    name = excluded.name, is_pro = excluded.is_pro,
    subscription_required = excluded.subscription_required,
    subscription_active = excluded.subscription_active, disabled = excluded.disabled,
    tier = excluded.tier, features = excluded.features;

-- name: save_keys
-- Create keys or replace what is known of them; element 11 is the digest in hexadecimal.
INSERT INTO api_key (id, account_id, kind, description, last_six, usd_limit, diem_limit, period,
                     model_privacy, expires_ns, openai_errors, digest, created_ns, revoked,
                     usd_limit_rest, diem_limit_rest)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6,
       value ->> 7, value ->> 8, value ->> 9, value ->> 10, unhex(value ->> 11), value ->> 12,
       value ->> 13, value ->> 14, value ->> 15
FROM json_each(?1) WHERE true
ON CONFLICT (id) DO UPDATE SET
    description = excluded.description, usd_limit = excluded.usd_limit,
    diem_limit = excluded.diem_limit, usd_limit_rest = excluded.usd_limit_rest,
    diem_limit_rest = excluded.diem_limit_rest, period = excluded.period,
    model_privacy = excluded.model_privacy, expires_ns = excluded.expires_ns,
    openai_errors = excluded.openai_errors, revoked = excluded.revoked;

-- name: save_pepper_proof
-- Say what the right pepper is recognised by; element 0 is in hexadecimal.
INSERT INTO pepper (only, proof) SELECT 1, unhex(value ->> 0) FROM json_each(?1) WHERE true
ON CONFLICT (only) DO UPDATE SET proof = excluded.proof;

-- name: save_key_uses
-- Say when keys were last presented.
INSERT INTO key_use (key_id, used_ns)
SELECT value ->> 0, value ->> 1 FROM json_each(?1) WHERE true
ON CONFLICT (key_id) DO UPDATE SET used_ns = excluded.used_ns;

-- name: save_allocations
-- Set the DIEM that accounts are granted per day.
INSERT INTO diem_allocation (account_id, amount)
SELECT value ->> 0, value ->> 1 FROM json_each(?1) WHERE true
ON CONFLICT (account_id) DO UPDATE SET amount = excluded.amount;

-- name: insert_entries
-- Append movements of money; a second one of the same request, kind and line fails the batch.
INSERT INTO entry (request_id, kind, line, account_id, debit, credit, currency, window, amount,
                   units, key_id, key_window, price_version, created_ns, reason)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6,
       value ->> 7, value ->> 8, value ->> 9, value ->> 10, value ->> 11, value ->> 12,
       value ->> 13, value ->> 14
FROM json_each(?1);

-- name: move_balances
-- Apply the batch's sum of entries to each balance it touched.
INSERT INTO balance (account_id, currency, window, amount)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3 FROM json_each(?1) WHERE true
ON CONFLICT (account_id, currency, window) DO UPDATE SET amount = amount + excluded.amount;

-- name: add_key_spends
-- Apply the batch's sum of charges to each key and day it touched.
INSERT INTO key_spend (key_id, currency, window, spent)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3 FROM json_each(?1) WHERE true
ON CONFLICT (key_id, currency, window) DO UPDATE SET spent = spent + excluded.spent;

-- name: take_back_key_spends
-- Apply the batch's sum of refunds (negative) to each key and day it touched; the charges that they
-- give back have made the rows.
UPDATE key_spend SET spent = spent + (change.value ->> 3)
FROM json_each(?1) AS change
WHERE key_spend.key_id = change.value ->> 0 AND key_spend.currency = change.value ->> 1
  AND key_spend.window = change.value ->> 2;

-- name: insert_usages
-- Record what requests used.
INSERT INTO usage (request_id, account_id, key_id, model, prompt_tokens, completion_tokens,
                   cached_tokens, reasoning_tokens, basis, streamed, currency, priced, charged,
                   created_ns, duration_ms)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6,
       value ->> 7, value ->> 8, value ->> 9, value ->> 10, value ->> 11, value ->> 12,
       value ->> 13, value ->> 14
FROM json_each(?1);

-- name: keep_answer
-- Keep an answer, in the place of an expired one under the same handle.
INSERT INTO kept_answer (handle, key_id, fingerprint, sealed, expires_ns, bytes)
VALUES (?1, ?2, ?3, ?4, ?5, ?6)
ON CONFLICT (handle) DO UPDATE SET
    fingerprint = excluded.fingerprint, sealed = excluded.sealed, expires_ns = excluded.expires_ns,
    bytes = excluded.bytes;

-- name: forget_answers
-- Remove kept answers that expire at ?1 or before, at most ?2.
DELETE FROM kept_answer WHERE rowid IN (
    SELECT rowid FROM kept_answer WHERE expires_ns <= ?1 ORDER BY expires_ns LIMIT ?2
);

-- name: open_holds
-- Write holds; those that ended within the same batch are not among them.
INSERT INTO hold (request_id, account_id, key_id, currency, window, key_window, amount, created_ns,
                  expires_ns)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6,
       value ->> 7, value ->> 8
FROM json_each(?1);

-- name: extend_holds
-- Set the amount that open holds cover from now on.
UPDATE hold SET amount = change.value ->> 1
FROM json_each(?1) AS change WHERE hold.request_id = change.value ->> 0;

-- name: close_holds
-- Remove holds that ended.
DELETE FROM hold WHERE request_id IN (SELECT value ->> 0 FROM json_each(?1));
