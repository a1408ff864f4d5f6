"""Answers that are given again: what an `Idempotency-Key` promises, and how it is kept.

Invariant: what rests on disk can be read by nobody without the caller's own API key, which this
server does not keep.
"""
