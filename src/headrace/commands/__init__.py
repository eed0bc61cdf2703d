"""One module for the commands that share their imports."""
