"""Commit to updates and prove how they relate."""
