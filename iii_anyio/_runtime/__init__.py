"""What waits: the only package that starts tasks for a worker. ``link.py`` is the place to begin reading."""
