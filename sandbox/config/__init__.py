"""The operator's settings and the types of their fields; must not know what uses a setting."""
