"""Evaluation: runs beside each other on the same rows, and the report that a person reads."""
