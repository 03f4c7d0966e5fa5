"""Judges a running deployment against the contract, over HTTP and websockets.

Each rule is a sentence of the contract, and a function that tries it out with visitors and operators of its own.
"""

from actorchat.testing.conformance.deployment import Broken, Deployment, open_deployment
from actorchat.testing.conformance.rules import RULES, Outcome, Result, Rule, judge

__all__ = ["RULES", "Broken", "Deployment", "Outcome", "Result", "Rule", "judge", "open_deployment"]
