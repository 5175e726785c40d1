"""Reads files that people wrote and nobody vouches for, and says what is wrong in them and where;
knows neither functions nor settings.
"""
