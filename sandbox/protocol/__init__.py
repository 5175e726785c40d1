"""Bytes to values and back, under caps; does no I/O, and knows no container."""
