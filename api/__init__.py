"""Serve what the chain recorded over HTTP."""
