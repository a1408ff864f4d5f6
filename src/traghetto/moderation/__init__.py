"""What the operator allows: a word list and a classifier that judge prompts and images."""

from traghetto.moderation.classifier import PolicyUnavailable
from traghetto.moderation.policy import Policy, Verdict, policy_of
from traghetto.moderation.words import WordsInvalid

__all__ = ["Policy", "PolicyUnavailable", "Verdict", "WordsInvalid", "policy_of"]
