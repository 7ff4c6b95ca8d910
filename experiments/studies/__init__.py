"""Studies: algorithms, environments and seeds that one file names, run and compared."""
