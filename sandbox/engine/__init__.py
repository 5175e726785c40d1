"""Container engines behind one seam (`sandbox.engine.base`)."""
