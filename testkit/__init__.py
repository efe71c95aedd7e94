"""Real servers, programs, clients and photos for tests, faults and benchmarks."""
