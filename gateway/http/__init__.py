"""What every service here needs of HTTP: listening within limits, knowing who asks, and answering."""
