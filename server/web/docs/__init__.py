"""OpenAPI and AsyncAPI, generated from the code."""
