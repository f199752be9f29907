"""Run code nobody has reviewed. `from enclave import Enclave, AsyncEnclave`."""

TYPE_CHECKING = False  # as type checkers read it; importing typing for it would be most of this import's time
if TYPE_CHECKING:
    from enclave.sdk.account import Account, AsyncAccount
    from enclave.sdk.client import AsyncEnclave, Enclave
    from enclave.sdk.operator import AsyncOperator, Operator

__version__ = "0.1.0"
__all__ = ["Account", "AsyncAccount", "AsyncEnclave", "AsyncOperator", "Enclave", "Operator", "__version__"]


def __getattr__(name: str) -> object:
    # The launcher imports this package beside hostile code: it must cost and reveal nothing until asked.
    if name in ("AsyncEnclave", "Enclave"):
        from enclave.sdk import client

        return getattr(client, name)
    if name in ("Account", "AsyncAccount"):
        from enclave.sdk import account

        return getattr(account, name)
    if name in ("AsyncOperator", "Operator"):
        from enclave.sdk import operator

        return getattr(operator, name)
    raise AttributeError(f"module 'enclave' has no attribute {name!r}")
