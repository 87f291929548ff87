"""The demo as a fleet: a Redis, three server processes behind one address, and a process that works."""
