"""The OpenAPI and AsyncAPI documents, made from the rows of ``api.operations``.

``schemas`` and ``examples`` are tables, ``openapi`` and ``asyncapi`` the generators;
``documents`` serves them.
"""
