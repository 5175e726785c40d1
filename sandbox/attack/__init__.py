"""`sandbox doctor --attack`: what a hostile function would try, tried against this engine."""
