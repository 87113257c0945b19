"""Puts this folder on the path of the tests in its folders, which share the queues, papers and baselines in it."""
