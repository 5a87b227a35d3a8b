"""The lookup service by HTTP: who asks what, and how it is answered."""
