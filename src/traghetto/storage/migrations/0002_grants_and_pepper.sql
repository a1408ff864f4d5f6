-- What a day's DIEM window was granted is read at every start, from the journal itself.
CREATE INDEX diem_grant_of_window ON entry (window, account_id, amount) WHERE kind = 'diem_grant';

-- Proof of the secret that the key digests were made with; the secret itself is kept elsewhere.
CREATE TABLE pepper (
    only  INTEGER NOT NULL PRIMARY KEY CHECK (only = 1),
    proof BLOB NOT NULL CHECK (length(proof) = 32)
) STRICT;
