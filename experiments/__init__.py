"""The scripts, and what stands between a command line and the library."""
