"""How agents work together through a store: tasks with leases, pools, and votes."""
