"""The protocol without I/O: no event loop, no clock, no sockets. Shared by worker and development engine."""
