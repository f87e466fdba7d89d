"""Who is asking: a browser by its cookie, a program by its API key."""

import secrets

from starlette.authentication import AuthCredentials, AuthenticationBackend, AuthenticationError, SimpleUser
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse

from idemtable.web import Request

API_KEYS = {"key-of-ada": "ada", "key-of-bob": "bob"}  # a shop in earnest keeps hashes of them in its database


class Customers(AuthenticationBackend):
    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, SimpleUser]:
        if conn.url.path.startswith("/api/"):
            scheme, _, key = conn.headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or key not in API_KEYS:
                raise AuthenticationError("Send your API key: Authorization: Bearer …")
            name = API_KEYS[key]
        else:
            if "visitor" not in conn.session:
                conn.session["visitor"] = f"visitor:{secrets.token_urlsafe(16)}"
            name = conn.session["visitor"]
        return AuthCredentials(), SimpleUser(name)


def unknown(conn: HTTPConnection, error: AuthenticationError) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 401, {"WWW-Authenticate": "Bearer"})


def tenant(request: Request) -> str:
    """Say for whom a request is that the middleware protects: whose keys and tokens it may use."""
    assert request.scope is not None
    user: SimpleUser = request.scope["user"]
    return user.username
