"""One file per source of energy, behind the protocol of `core/energy.py`."""
