"""The books: balances, holds and charges, decided in memory and proved by the journal.

README.md beside this file states the invariants in plain words.
"""
