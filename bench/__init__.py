"""Programs that measure preemptc on real networks: the demo and the benchmark of the zoo."""
