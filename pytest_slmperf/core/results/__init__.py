"""What the author of a suite gets from measuring a sweep, and may claim of it."""
