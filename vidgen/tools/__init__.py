"""Looking at a config or a machine: bench, estimate, doctor, launch."""
