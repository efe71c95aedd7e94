"""Forms as clients write them; ``PHOTO`` stands for the picture.

Those of Node, curl, requests and httpx were captured; the others follow what is known
of the client, its documentation or its source.
"""

from __future__ import annotations

import pytest

from tests.server.web.api.forms import JPEG, Post, sha

CLIENTS = {
    "Chrome": (
        "multipart/form-data; boundary=----WebKitFormBoundary7MA4YWxkTrZu0gW",
        "------WebKitFormBoundary7MA4YWxkTrZu0gW\r\n"
        'Content-Disposition: form-data; name="image"; filename="p.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\nPHOTO\r\n"
        "------WebKitFormBoundary7MA4YWxkTrZu0gW\r\n"
        'Content-Disposition: form-data; name="params"\r\n\r\n{"a":1}\r\n'
        "------WebKitFormBoundary7MA4YWxkTrZu0gW--\r\n",
    ),
    "Firefox": (
        "multipart/form-data; boundary=---------------------------9051914041544843365972754266",
        "-----------------------------9051914041544843365972754266\r\n"
        'Content-Disposition: form-data; name="image"; filename="a%22b.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\nPHOTO\r\n"
        "-----------------------------9051914041544843365972754266\r\n"
        'Content-Disposition: form-data; name="params"\r\n\r\n{"a":1}\r\n'
        "-----------------------------9051914041544843365972754266--\r\n",
    ),
    "curl 8": (
        "multipart/form-data; boundary=------------------------f604f359e688cc73",
        "--------------------------f604f359e688cc73\r\n"
        'Content-Disposition: form-data; name="image"; filename="p.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\nPHOTO\r\n"
        "--------------------------f604f359e688cc73\r\n"
        'Content-Disposition: form-data; name="params"\r\n\r\n{"a":1}\r\n'
        "--------------------------f604f359e688cc73--\r\n",
    ),
    "Node FormData": (
        "multipart/form-data; boundary=----formdata-undici-008485689628",
        "------formdata-undici-008485689628\r\n"
        'Content-Disposition: form-data; name="image"; filename="p.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\nPHOTO\r\n"
        "------formdata-undici-008485689628\r\n"
        'Content-Disposition: form-data; name="params"\r\n\r\n{"a":1}\r\n'
        "------formdata-undici-008485689628--\r\n",
    ),
    "requests and httpx": (
        "multipart/form-data; boundary=6d2498a7ea61b7ffbd5a561551c85a54",
        "--6d2498a7ea61b7ffbd5a561551c85a54\r\n"
        'Content-Disposition: form-data; name="params"\r\n\r\n{"a":1}\r\n'
        "--6d2498a7ea61b7ffbd5a561551c85a54\r\n"
        'Content-Disposition: form-data; name="image"; filename="p.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\nPHOTO\r\n"
        "--6d2498a7ea61b7ffbd5a561551c85a54--\r\n",
    ),
    "aiohttp": (
        "multipart/form-data; boundary=cfd0a2b3c0cd4fbba1bdaf1b2a1a6c6f",
        "--cfd0a2b3c0cd4fbba1bdaf1b2a1a6c6f\r\n"
        "Content-Type: image/jpeg\r\n"
        'Content-Disposition: form-data; name="image"; filename="p.jpg"\r\n\r\nPHOTO\r\n'
        "--cfd0a2b3c0cd4fbba1bdaf1b2a1a6c6f\r\n"
        "Content-Type: text/plain; charset=utf-8\r\n"
        'Content-Disposition: form-data; name="params"\r\n\r\n{"a":1}\r\n'
        "--cfd0a2b3c0cd4fbba1bdaf1b2a1a6c6f--\r\n",
    ),
    ".NET MultipartFormDataContent": (
        'multipart/form-data; boundary="5d2f2b6e-3a55-4c5e-9f43-6f0c4dd0f1b0"',
        "--5d2f2b6e-3a55-4c5e-9f43-6f0c4dd0f1b0\r\n"
        "Content-Type: image/jpeg\r\n"
        "Content-Disposition: form-data; name=image; filename=p.jpg; filename*=utf-8''p.jpg\r\n\r\nPHOTO\r\n"
        "--5d2f2b6e-3a55-4c5e-9f43-6f0c4dd0f1b0\r\n"
        "Content-Type: text/plain; charset=utf-8\r\n"
        'Content-Disposition: form-data; name=params\r\n\r\n{"a":1}\r\n'
        "--5d2f2b6e-3a55-4c5e-9f43-6f0c4dd0f1b0--\r\n",
    ),
    "Apache HttpClient": (
        "multipart/form-data; boundary=3kTVQpwhMlcd6pHlFVHOaJmLPxTfVKN4q; charset=ISO-8859-1",
        "--3kTVQpwhMlcd6pHlFVHOaJmLPxTfVKN4q\r\n"
        'Content-Disposition: form-data; name="image"; filename="p.jpg"\r\n'
        "Content-Type: image/jpeg\r\nContent-Transfer-Encoding: binary\r\n\r\nPHOTO\r\n"
        "--3kTVQpwhMlcd6pHlFVHOaJmLPxTfVKN4q\r\n"
        'Content-Disposition: form-data; name="params"\r\n'
        "Content-Type: text/plain; charset=ISO-8859-1\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
        '{"a":1}\r\n'
        "--3kTVQpwhMlcd6pHlFVHOaJmLPxTfVKN4q--\r\n",
    ),
    "OkHttp": (
        "multipart/form-data; boundary=0c3de0c1-8e60-4b8d-9d70-2f1b1f2b5a4e",
        "--0c3de0c1-8e60-4b8d-9d70-2f1b1f2b5a4e\r\n"
        'Content-Disposition: form-data; name="image"; filename="p.jpg"\r\n'
        "Content-Type: image/jpeg\r\nContent-Length: 304\r\n\r\nPHOTO\r\n"
        "--0c3de0c1-8e60-4b8d-9d70-2f1b1f2b5a4e\r\n"
        'Content-Disposition: form-data; name="params"\r\nContent-Length: 7\r\n\r\n{"a":1}\r\n'
        "--0c3de0c1-8e60-4b8d-9d70-2f1b1f2b5a4e--\r\n",
    ),
    "Jakarta Mail": (
        'multipart/form-data; \tboundary="----=_Part_0_1510467688.1690000000000"',
        "------=_Part_0_1510467688.1690000000000\r\n"
        'Content-Type: image/jpeg; name="p.jpg"\r\nContent-Transfer-Encoding: binary\r\n'
        'Content-Disposition: form-data; filename="p.jpg"; name="image"\r\n\r\nPHOTO\r\n'
        "------=_Part_0_1510467688.1690000000000\r\n"
        'Content-Disposition: form-data;\r\n\tname="params"\r\n\r\n{"a":1}\r\n'
        "------=_Part_0_1510467688.1690000000000--\r\n",
    ),
    "Dart": (
        "multipart/form-data; boundary=dart-http-boundary-JrYQX.o+Y5B0RZ3LJ_tRj2V",
        "--dart-http-boundary-JrYQX.o+Y5B0RZ3LJ_tRj2V\r\n"
        'content-disposition: form-data; name="params"\r\n\r\n{"a":1}\r\n'
        "--dart-http-boundary-JrYQX.o+Y5B0RZ3LJ_tRj2V\r\n"
        'content-type: image/jpeg\r\ncontent-disposition: form-data; name="image"; filename="p.jpg"\r\n\r\nPHOTO\r\n'
        "--dart-http-boundary-JrYQX.o+Y5B0RZ3LJ_tRj2V--\r\n",
    ),
    "Go": (
        "multipart/form-data; boundary=aee6b9d3d1ae1d8b64a4c1ecfd1a8bbd6ba7bb4c3c8e57bba8bd4c45d35d",
        "--aee6b9d3d1ae1d8b64a4c1ecfd1a8bbd6ba7bb4c3c8e57bba8bd4c45d35d\r\n"
        'Content-Disposition: form-data; name="image"; filename="p.jpg"\r\n'
        "Content-Type: application/octet-stream\r\n\r\nPHOTO\r\n"
        "--aee6b9d3d1ae1d8b64a4c1ecfd1a8bbd6ba7bb4c3c8e57bba8bd4c45d35d\r\n"
        'Content-Disposition: form-data; name="params"\r\n\r\n{"a":1}\r\n'
        "--aee6b9d3d1ae1d8b64a4c1ecfd1a8bbd6ba7bb4c3c8e57bba8bd4c45d35d--\r\n",
    ),
}


@pytest.mark.parametrize("client", CLIENTS)
async def test_form_of_client_is_read(post: Post, client: str) -> None:
    """The photo and the params arrive, also when the body comes byte by byte."""
    content_type, text = CLIENTS[client]
    body = text.encode().replace(b"PHOTO", JPEG)
    for chunks in ([body], [body[at : at + 1] for at in range(len(body))]):
        answer = await post(chunks, content_type=content_type)
        assert (answer["status"], answer.get("image"), answer.get("params")) == (201, sha(JPEG), {"a": 1})
