"""Explanation: why a model gives this answer."""
