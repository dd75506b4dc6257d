"""How the tracking server starts."""
