"""`sandbox serve`: HTTP in front of the library; the library knows nothing of it."""
