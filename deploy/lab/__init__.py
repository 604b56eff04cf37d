"""Try rules, attacks and payments on simulated trainers, and report what was measured."""
