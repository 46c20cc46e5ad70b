"""Values and contracts that everything else is built on: no I/O, no plugins, no event loop."""
