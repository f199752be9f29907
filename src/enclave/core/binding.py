"""A service binding: which ones there may be, and as a session holds it where calls go and what is injected."""

import re
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import partial
from typing import Final

from enclave.contracts.audit import BindingPut
from enclave.contracts.bindings import BINDING_NAME, PLACEHOLDER, Binding, Injection, InjectionKind, PutBinding
from enclave.contracts.errors import FieldProblem, InvalidRequest
from enclave.contracts.identity import Principal
from enclave.core.address import Network
from enclave.core.grant import Grant
from enclave.core.upstream import Malformed, path_prefix, upstream

MAX_BINDINGS: Final = 256
"""The most bindings of one org."""

_LEAST_RECOGNISED: Final = 8
_NO_FIELD_VALUE: Final = "must be visible ASCII, without a space at either end"
_NAME: Final = re.compile(BINDING_NAME)
_PARAMETER: Final = re.compile(r"[A-Za-z0-9\-._~]+")
# token of RFC 9110, section 5.6.2.
_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+\-.^_`|~]+")
_NOT_OURS: Final = frozenset(
    {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer"}
    | {"transfer-encoding", "upgrade", "host", "content-length", "expect"}
)
"""Headers of one hop (RFC 9110, section 7.6.1), and those that say where a message goes and where it ends."""


def variable(name: str) -> str:
    """The environment variable in which a session finds the URL of a binding."""
    return f"ENCLAVE_SVC_{name.upper().replace('-', '_')}"


def check_name(name: str) -> None:
    """Raise InvalidRequest unless a binding can have this name."""
    if not _NAME.fullmatch(name):
        message = "must begin with a lower-case letter and have at most 32 of a-z, 0-9, - and _"
        raise InvalidRequest("the name is malformed", errors=(FieldProblem(field="name", message=message),))


def normal(request: PutBinding, private: Sequence[Network]) -> PutBinding:
    """The request with its addresses in their one form.

    Raises InvalidRequest, naming every field that is wrong and repeating none: any of them may hold the secret.
    """
    problems = [*_injection_problems(request.inject), *_secret_problems(request), *_repetitions(request)]
    url = _formed("url", lambda: upstream(request.url, private), problems)
    paths = [_formed(f"paths.{at}", partial(path_prefix, path), problems) for at, path in enumerate(request.paths)]
    if problems:
        named = ", ".join(problem.field for problem in problems)
        raise InvalidRequest(f"the binding is malformed: {named}", errors=tuple(problems))
    return request.model_copy(
        update={"url": url, "paths": tuple(dict.fromkeys(paths)), "methods": tuple(dict.fromkeys(request.methods))}
    )


def binding_of(name: str, request: PutBinding, *, at: datetime, by: str) -> Binding:
    """What everyone may see of a binding that this request makes."""
    return Binding(
        name=name,
        url=request.url,
        inject=request.inject,
        methods=request.methods,
        paths=request.paths,
        created_at=at,
        created_by=by,
        updated_at=at,
    )


def grant_of(binding: Binding, secret: str) -> Grant:
    """A binding as a session holds it."""
    return Grant(
        name=binding.name,
        url=binding.url,
        inject=binding.inject.kind,
        secret=secret,
        parameter=binding.inject.name or "",
        template=binding.inject.template or PLACEHOLDER,
        methods=binding.methods,
        paths=binding.paths,
    )


def put_event(principal: Principal, binding: Binding) -> BindingPut:
    """What the audit trail says of a binding that was made or replaced: nothing of the secret, not even its size."""
    return BindingPut(
        ts=binding.updated_at,
        org_id=principal.org_id,
        actor=principal.user_id,
        name=binding.name,
        url=binding.url,
        inject=binding.inject.kind,
        methods=binding.methods,
        paths=binding.paths,
    )


def _formed(field_name: str, form: Callable[[], str], problems: list[FieldProblem]) -> str:
    try:
        return form()
    except Malformed as error:
        problems.append(FieldProblem(field=field_name, message=str(error)))
        return ""


def _injection_problems(inject: Injection) -> Iterator[FieldProblem]:
    named = inject.kind in ("header", "query")
    if named != (inject.name is not None):
        message = "is required" if named else f"is not for the kind {inject.kind}"
        yield FieldProblem(field="inject.name", message=message)
    elif inject.name is not None and (message := _name_problem(inject.kind, inject.name)):
        yield FieldProblem(field="inject.name", message=message)
    if inject.template is not None and (message := _template_problem(inject)):
        yield FieldProblem(field="inject.template", message=message)


def _name_problem(kind: InjectionKind, name: str) -> str:
    if kind == "query":
        return "" if _PARAMETER.fullmatch(name) else "may have letters, digits and - . _ ~ only"
    if not _TOKEN.fullmatch(name):
        return "is not the name of a header"
    return "belongs to the connection or to the message, not to the caller" if name.lower() in _NOT_OURS else ""


def _template_problem(inject: Injection) -> str:
    template = inject.template or ""
    if inject.kind != "header":
        return f"is not for the kind {inject.kind}"
    if template.count(PLACEHOLDER) != 1:
        return f"must have {PLACEHOLDER} exactly once"
    return "" if _is_field_value(template) else _NO_FIELD_VALUE


def _secret_problems(request: PutBinding) -> Iterator[FieldProblem]:
    if message := _secret_problem(request.inject.kind, request.secret.get_secret_value()):
        yield FieldProblem(field="secret", message=message)


def _secret_problem(kind: InjectionKind, secret: str) -> str:
    # A query parameter and a basic credential are encoded on the way; what a header holds is not.
    if kind in ("bearer", "header") and not _is_field_value(secret):
        return _NO_FIELD_VALUE
    if not secret.isprintable():
        return "has a character that is not visible, such as a line break"
    if kind == "bearer" and " " in secret:
        return "must not have a space; a bearer token has none"
    return "must be user:password" if kind == "basic" and ":" not in secret else ""


def _repetitions(request: PutBinding) -> Iterator[FieldProblem]:
    secret = request.secret.get_secret_value().lower()
    shown = {"url": request.url, "inject.name": request.inject.name, "inject.template": request.inject.template}
    shown |= {f"paths.{at}": path for at, path in enumerate(request.paths)}
    for field_name, text in shown.items():
        # Of a shorter one it would be chance.
        if len(secret) >= _LEAST_RECOGNISED and secret in (text or "").lower():
            yield FieldProblem(field=field_name, message="repeats the secret, which everyone could then read here")


def _is_field_value(text: str) -> bool:
    # RFC 9110, section 5.5: visible ASCII and single-line; a recipient strips white space at the ends.
    return text.isascii() and text.isprintable() and text == text.strip()
