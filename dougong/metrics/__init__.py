"""Metrics: one file a family. A metric is a sum over rows and a function of that sum."""
