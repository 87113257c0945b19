"""The sequences: launch, warm up, measure, gate, record, compare."""
