"""Advice: which batch, type and number of replicas to run a model with, from as few measurements as settle it."""
