"""What is being done while something is logged: the request that is answered, the session that is run."""

from contextvars import ContextVar
from typing import Final

REQUEST_ID: Final = ContextVar[str | None]("enclave_request_id", default=None)
SESSION_ID: Final = ContextVar[str | None]("enclave_session_id", default=None)
