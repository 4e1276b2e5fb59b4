"""Running an experiment: the loop, what it writes, logs, signals."""
