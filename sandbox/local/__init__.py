"""Invocations through a process that is running already, over a Unix socket of the same user.

Light on purpose: a client is a command line that should answer at once.
"""
