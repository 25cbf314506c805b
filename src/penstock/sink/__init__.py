"""Where samples go: formats, and the one commit rule."""
