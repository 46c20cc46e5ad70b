"""Who may join, whom to trust, how disputes end, what is allowed. Each policy fails closed: see `decide`."""
