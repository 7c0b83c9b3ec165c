"""The running of consumers: who works, on what, and how far it is."""
