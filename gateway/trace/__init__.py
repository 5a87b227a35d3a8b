"""What would happen to a packet: the pipeline itself is asked, and explains in words."""
