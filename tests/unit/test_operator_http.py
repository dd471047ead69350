"""What a pod answers, read from a real HTTP server."""

from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tuneyard_operator.machinery.http import HttpClient

ANSWERS = {
    "/progress": (200, '{"percent": 40}'),
    "/list": (200, "[1]"),
    "/text": (200, "not JSON"),
    "/error": (500, '{"percent": 40}'),
}
PORTS = web.AppKey("ports", list[int])  # of the clients


@pytest.fixture
async def server() -> AsyncIterator[TestServer]:
    """It notes the client's port of each request, which tells connections apart."""

    async def respond(request: web.Request) -> web.Response:
        status, text = ANSWERS[request.path]
        peer = request.transport.get_extra_info("peername") if request.transport else ("", 0)
        request.app[PORTS].append(peer[1])
        return web.Response(status=status, text=text)

    app = web.Application()
    app[PORTS] = []
    app.router.add_route("*", "/{path:.*}", respond)
    running = TestServer(app)
    async with running:
        yield running


@pytest.fixture
async def client() -> AsyncIterator[HttpClient]:
    made = HttpClient()
    yield made
    await made.close()


@pytest.mark.parametrize(
    ("path", "expected"), [("/progress", {"percent": 40}), ("/list", None), ("/text", None), ("/error", None)]
)
async def test_only_a_json_object_is_an_answer(
    path: str, expected: object, server: TestServer, client: HttpClient
) -> None:
    assert await client.get_json(str(server.make_url(path))) == expected


async def test_pod_that_is_gone_has_no_answer(server: TestServer, client: HttpClient) -> None:
    url = str(server.make_url("/progress"))
    await server.close()
    assert await client.get_json(url) is None


async def test_polls_share_a_connection(server: TestServer, client: HttpClient) -> None:
    for _ in range(3):
        await client.get_json(str(server.make_url("/progress")))
    ports = server.app[PORTS]
    assert len(ports) == 3 and len(set(ports)) == 1


async def test_client_that_was_not_used_closes() -> None:
    await HttpClient().close()
