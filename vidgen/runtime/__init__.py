"""Where a run lies: devices, processes, checkpoints."""
