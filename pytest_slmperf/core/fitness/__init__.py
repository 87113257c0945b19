"""Whether a machine is fit to gate performance on, and what to do where it isn't."""
