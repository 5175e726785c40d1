"""Compiling functions, in containers."""
