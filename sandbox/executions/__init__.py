"""Executions on record, and those that wait for their turn."""
