"""The one asyncio thread, and the only seam between asyncio and trio."""
