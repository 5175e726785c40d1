"""`python -m sandbox_cli`, the same as `sandbox`."""

from .main import main

main()
