"""Sites: the key exchange, ESP and the pipeline, joined."""
