"""What people and their tools ask of a running appliance, and what it tells them."""
