"""The Docker engine, alone in using Docker's SDK; must not know what its containers are for."""
