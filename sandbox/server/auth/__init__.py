"""Authentication of callers, and their rate limits; must not know routes or functions."""
