"""Engines: one file for each, behind core's Engine protocol; and what they share: weights, lengths, the registry."""
