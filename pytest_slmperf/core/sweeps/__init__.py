"""What a suite declares: sweeps, with the workloads, variants and searches of which they consist."""
