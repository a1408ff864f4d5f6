"""The guide to the error contract: what a code means, what brings it about, and what to do.

`facts` gathers everything about a code, for programs; `pages` renders it, for people. Both are
pure: they know the catalogue and nothing of a running server but its `ErrorStyle`.
"""
