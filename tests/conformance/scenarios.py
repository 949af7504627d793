"""What the recorded clients did, done by our worker."""
SCENARIOS = {}
