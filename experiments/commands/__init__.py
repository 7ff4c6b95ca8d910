"""The commands of `marl`, a module each: `arguments(parser)` and `run(arguments)`."""
