"""Joules: of a window, a round and a mix of models, net of idle, and whether they may be compared."""
