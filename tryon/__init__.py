"""TryOn Push for people who use it: the protocol, the client, and the plug for a model."""
