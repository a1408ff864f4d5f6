"""Where facts become durable: one Protocol, SQLite and memory behind it.

Invariants: this package makes no decision about money, it records what the ledger decided; what
one `submit` carries is durable as a whole or not at all; only this package imports a database
driver.
"""
