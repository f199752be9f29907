"""The Linux mechanism: a launcher that keeps isolated, single-use sandboxes ready. Standard library only."""
