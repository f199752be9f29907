"""Service bindings: an upstream that sessions may call with a secret that they never see."""

from typing import Annotated, Final, Literal

from pydantic import ConfigDict, Field, SecretStr

from enclave.contracts.wire import Timestamp, Wire

BINDING_NAME: Final = r"^[a-z][a-z0-9_-]{0,31}$"
MAX_SECRET_CHARS: Final = 8192
PLACEHOLDER: Final = "{secret}"
"""What stands for the secret in a template."""

BindingName = Annotated[str, Field(pattern=BINDING_NAME)]
InjectionKind = Literal["bearer", "basic", "header", "query"]
Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]

_Url = Annotated[str, Field(min_length=1, max_length=2048)]
_Methods = Annotated[tuple[Method, ...], Field(max_length=16)]
_PathPrefix = Annotated[str, Field(min_length=1, max_length=1024)]
_Paths = Annotated[tuple[_PathPrefix, ...], Field(max_length=64)]


class Injection(Wire):
    """How a secret is put into a call.

    `bearer` is `Authorization: Bearer SECRET`; `basic` is basic authentication, the secret being `user:password`;
    `header` is the header `name`, its value `template` with `{secret}` replaced (the secret alone, if there is none);
    `query` is the query parameter `name`.
    """

    kind: InjectionKind
    name: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    template: Annotated[str, Field(min_length=1, max_length=256)] | None = None


class PutBinding(Wire):
    """An upstream and its secret. The secret can be written and replaced, and is never read back.

    `url` is the base of all calls: `https://host[:port][/path]`. `methods` and `paths` (prefixes relative to the base,
    on whole segments) bound what may be called; empty means any.
    """

    # A refusal that repeated what it was given would show the secret.
    model_config = ConfigDict(hide_input_in_errors=True)

    url: _Url
    inject: Injection
    secret: Annotated[SecretStr, Field(min_length=1, max_length=MAX_SECRET_CHARS)]
    methods: _Methods = ()
    paths: _Paths = ()


class Binding(Wire):
    """A binding as anyone may see it. No field of it can hold the secret."""

    name: BindingName
    url: _Url
    inject: Injection
    methods: _Methods = ()
    paths: _Paths = ()
    created_at: Timestamp
    created_by: str
    updated_at: Timestamp
