"""Tries what a hostile function would try, and judges the result; must not know the server."""
