"""What functions run from: dependencies installed and builds run, in containers."""
