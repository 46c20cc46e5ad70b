"""What is going on: metrics, traces, structured logs and a log of messages to replay. Importing any of it is cheap."""
