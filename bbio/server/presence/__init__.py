"""Presence and messages: who is there at this moment, and what they tell each other. Nothing of it is kept."""
