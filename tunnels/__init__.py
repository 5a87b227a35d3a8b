"""How to reach a site."""
