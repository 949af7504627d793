"""What the SDK costs, beside what others cost, in one run: ``make bench``."""
