"""The engine on python-socketio as it is."""
