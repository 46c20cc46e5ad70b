"""The execution loop of an agent, and the application that `converge run` starts from a config file."""
