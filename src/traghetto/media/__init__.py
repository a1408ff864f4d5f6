"""What callers send besides text: fetching it, telling what it is, decoding it within limits.

Invariants: no byte of a caller's file is decoded in the gateway's own process; a URL is fetched
from public addresses only; whatever leaves this package has been decoded whole.
"""
