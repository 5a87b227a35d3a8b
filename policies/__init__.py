"""What is allowed, and where things are. Imports nothing else of this project."""
