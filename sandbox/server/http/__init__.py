"""Requests and answers over HTTP; the only package of the server that knows what a request is."""
