-- Statements that read for people; none of them is part of answering a request for inference.

-- name: usage_entries
-- Charges and refunds of the account ?1 behind the place (?2, ?3) and before ?4, at most ?6, in the
-- currency ?5 if it is not null.
SELECT entry.seq, entry.created_ns, entry.kind, entry.line, entry.currency, entry.amount,
       entry.units, entry.price_version, entry.request_id, usage.model, usage.prompt_tokens,
       usage.completion_tokens, usage.duration_ms
FROM entry LEFT JOIN usage ON usage.request_id = entry.request_id
WHERE entry.account_id = ?1 AND entry.kind IN ('charge', 'refund')
  AND (entry.created_ns, entry.seq) > (?2, ?3) AND entry.created_ns < ?4
  AND (?5 IS NULL OR entry.currency = ?5)
ORDER BY entry.created_ns, entry.seq LIMIT ?6;

-- name: usage_sums
-- Charges less refunds of the account ?1 from ?2 until before ?3, by day, model, key and line, at
-- most ?4 rows.
SELECT entry.created_ns / 86400000000000, usage.model, entry.key_id, entry.line, entry.currency,
       sum(iif(entry.kind = 'charge', entry.amount, -entry.amount)),
       sum(iif(entry.kind = 'charge', entry.units, -entry.units))
FROM entry JOIN usage ON usage.request_id = entry.request_id
WHERE entry.account_id = ?1 AND entry.kind IN ('charge', 'refund')
  AND entry.created_ns >= ?2 AND entry.created_ns < ?3
GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5 LIMIT ?4;

-- name: usage_totals
-- Requests from ?2 until before ?3, of the account ?1 unless it is null, by day, account, key and
-- model, with what they were charged less what was given back.
SELECT usage.created_ns / 86400000000000, usage.account_id, usage.key_id, usage.model,
       usage.currency, count(*), sum(usage.prompt_tokens), sum(usage.completion_tokens),
       sum(usage.charged - (SELECT coalesce(sum(entry.amount), 0) FROM entry
                            WHERE entry.kind = 'refund' AND entry.request_id = usage.request_id))
FROM usage
WHERE (?1 IS NULL OR usage.account_id = ?1) AND usage.created_ns >= ?2 AND usage.created_ns < ?3
GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5;

-- name: key_spends_of_account
-- What the keys of the account ?1 spent per day, from the day ?2 on.
SELECT key_spend.key_id, key_spend.currency, key_spend.window, key_spend.spent
FROM api_key JOIN key_spend ON key_spend.key_id = api_key.id
WHERE api_key.account_id = ?1 AND key_spend.window >= ?2;

-- name: request_entries
-- Charges and refunds of the request ?1.
SELECT request_id, kind, line, account_id, debit, credit, currency, window, amount, units, key_id,
       key_window, price_version, created_ns, reason
FROM entry WHERE request_id = ?1 AND kind IN ('charge', 'refund') ORDER BY seq;

-- name: account_entries
-- The last ?2 entries of the account ?1, newest first.
SELECT request_id, kind, line, account_id, debit, credit, currency, window, amount, units, key_id,
       key_window, price_version, created_ns, reason
FROM entry WHERE account_id = ?1 ORDER BY seq DESC LIMIT ?2;
