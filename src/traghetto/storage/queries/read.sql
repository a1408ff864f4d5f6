-- Every statement that reads: the start of a gateway, read-only commands, verification.

-- name: accounts
-- Accounts, oldest first.
SELECT id, name, is_pro, subscription_required, subscription_active, disabled, tier, features,
       created_ns
FROM account ORDER BY created_ns, id;

-- name: keys
-- API keys, revoked ones included, oldest first.
SELECT id, account_id, kind, description, last_six, usd_limit, diem_limit, period, model_privacy,
       expires_ns, openai_errors, digest, created_ns, revoked, usd_limit_rest, diem_limit_rest
FROM api_key ORDER BY created_ns, id;

-- name: allocations
-- DIEM per day, of accounts that have or had any.
SELECT account_id, amount FROM diem_allocation;

-- name: balances_from
-- DIEM balances of the day ?1 and later, and those of every other currency.
SELECT account_id, currency, window, amount FROM balance WHERE window = '' OR window >= ?1;

-- name: grants_from
-- DIEM granted per account and day, from the day ?1 on.
SELECT account_id, window, sum(amount) FROM entry
WHERE kind = 'diem_grant' AND window >= ?1 GROUP BY window, account_id;

-- name: pepper_proof
-- What the right pepper is recognised by.
SELECT proof FROM pepper;

-- name: balances
-- Every balance of every window.
SELECT account_id, currency, window, amount FROM balance;

-- name: key_spends_from
-- What keys spent per day, from the day ?1 on.
SELECT key_id, currency, window, spent FROM key_spend WHERE window >= ?1;

-- name: key_spends
-- What keys spent per day.
SELECT key_id, currency, window, spent FROM key_spend;

-- name: key_lifetimes
-- What keys spent altogether.
SELECT key_id, currency, '', sum(spent) FROM key_spend GROUP BY key_id, currency;

-- name: holds
-- Holds that nobody has ended.
SELECT request_id, account_id, key_id, currency, window, key_window, amount, created_ns, expires_ns
FROM hold;

-- name: key_uses
-- When keys were last presented.
SELECT key_id, used_ns FROM key_use;

-- name: kept_answer
-- The answer kept under the handle ?1.
SELECT handle, key_id, fingerprint, sealed, expires_ns FROM kept_answer WHERE handle = ?1;

-- name: kept_bytes
-- Kept answers by the hour in which they expire and by account, from their index alone.
SELECT kept.hour, api_key.account_id, sum(kept.bytes), sum(kept.rows)
FROM (SELECT expires_ns / 3600000000000 AS hour, key_id, sum(bytes) AS bytes, count(*) AS rows
      FROM kept_answer GROUP BY 1, 2) AS kept
JOIN api_key ON api_key.id = kept.key_id GROUP BY 1, 2;

-- name: entries
-- The journal, in the order in which it was written.
SELECT request_id, kind, line, account_id, debit, credit, currency, window, amount, units, key_id,
       key_window, price_version, created_ns, reason
FROM entry ORDER BY seq;

-- name: usages
-- Usage records, in the order in which they were written.
SELECT request_id, account_id, key_id, model, prompt_tokens, completion_tokens, cached_tokens,
       reasoning_tokens, basis, streamed, currency, priced, charged, created_ns, duration_ms
FROM usage ORDER BY seq;
