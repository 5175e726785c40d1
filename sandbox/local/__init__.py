"""Invocations through a process that is already running, over a Unix socket of the same user.

Its client imports little: it is a command line that should answer at once.
"""
