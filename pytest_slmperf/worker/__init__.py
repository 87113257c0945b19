"""The process that an engine lives in: what it does there, and nothing that only the launch needs."""
