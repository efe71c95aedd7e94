"""HTTP itself: parser, handshake, middleware, server."""
