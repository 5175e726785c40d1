"""The Dockerfiles, bootstraps and pinned versions of the project's images (data, no code)."""
