"""How the operator's operations are answered."""

from collections.abc import Mapping
from typing import Final

from enclave.server.call import RespondToOperator

RESPONSES: Final[Mapping[str, RespondToOperator]] = {}
