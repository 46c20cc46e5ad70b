"""What is there once for all agents of an event loop, so that ten thousand cost what they need and no more."""
