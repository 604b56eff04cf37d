"""Compute, prove and settle rounds."""
