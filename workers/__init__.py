"""The worker process: everything here runs in the child, after the fork."""
