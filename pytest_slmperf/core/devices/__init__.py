"""Devices as values: boards, GPUs and cores, what a meter sees of a board, and the clock of another machine."""
