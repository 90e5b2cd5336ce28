"""What all measuring commands share: slices, rounds, the probe, modes, results, charts."""
