"""The Docker engine, and the only place that knows Docker; behind `sandbox.engine.base`."""
