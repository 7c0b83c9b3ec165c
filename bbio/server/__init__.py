"""The server: Socket.IO on aiohttp, admission, limits and delivery."""
