"""One lab for the tests of the lab: each begins with a new one."""

from traghetto.testing.plugin import lab, lab_of_session, lab_url

__all__ = ["lab", "lab_of_session", "lab_url"]
