"""Containers kept ready, and who waits for one; knows nothing of what is said to them."""
