"""Tests of clients against a lab: start one, put accounts and failures in place, and ask.

`Lab` speaks to a running lab and `start_lab` starts one in a process of its own; with pytest the
fixtures `lab` and `lab_url` do both. Of the server they know the errors, and nothing that serves.
"""

from traghetto.testing.lab import Lab, LabAccount, LabRefused, start_lab

__all__ = ["Lab", "LabAccount", "LabRefused", "start_lab"]
