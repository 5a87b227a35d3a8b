"""Whether a machine and its neighbours are fit for an appliance, and what to do where they are not."""
