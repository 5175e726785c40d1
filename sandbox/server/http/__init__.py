"""Requests and answers over HTTP; must not know how the server starts and ends."""
