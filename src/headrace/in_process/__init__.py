"""Headrace within one process, on the record alone: no Redis, no other process."""
