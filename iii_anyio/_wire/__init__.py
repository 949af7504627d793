"""Wires: how whole messages travel. The only code that touches sockets."""
