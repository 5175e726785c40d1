"""Who calls, and how much of it is allowed; knows neither requests nor functions."""
