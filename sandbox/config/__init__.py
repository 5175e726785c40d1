"""The operator's settings and what their fields can be; knows nothing of what they are used for."""
