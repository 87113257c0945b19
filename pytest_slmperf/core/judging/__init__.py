"""What the gate judges by, and what else is judged as it does: error levels, drift, pace and tolerance."""
