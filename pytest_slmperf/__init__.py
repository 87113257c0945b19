"""Make performance a test: measure an engine that serves small language models, and gate on what it does."""

__version__ = "0.1.0.dev0"
