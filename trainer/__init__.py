"""Train on private data and take part in rounds."""
