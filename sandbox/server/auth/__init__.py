"""Authentication of callers, and their limits; knows neither the HTTP app nor functions."""
