"""Give Python the interfaces of the contracts."""
