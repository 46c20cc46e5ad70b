"""The commands below `converge`, one module each, loaded when the command is used."""
