"""Reads files that people wrote, and says what is wrong in them and where; must not know what the
files are for.
"""
