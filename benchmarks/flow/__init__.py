"""The flow benchmark: what a client makes of a server's limits and faults, side by side with its peers."""
