"""One file per source of energy, behind the protocol of `core/meter.py`."""
