"""WebSocket, Server-Sent Events and long polls: three ways to follow a session."""
