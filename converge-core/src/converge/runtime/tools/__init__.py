"""Where tools run: on the event loop, in threads, and in processes that can be killed."""
