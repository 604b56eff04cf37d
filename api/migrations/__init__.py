"""Change the tables of an index that an earlier version made."""
