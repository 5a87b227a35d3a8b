"""A changed configuration: what differs, what comes of it, and how it is taken over or taken back."""
