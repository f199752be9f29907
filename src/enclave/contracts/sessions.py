"""Sessions as a caller sees them."""

from enum import StrEnum
from typing import Annotated, Final

from pydantic import AfterValidator, Field, JsonValue, ValidationInfo, field_validator

from enclave.contracts.bindings import BindingName
from enclave.contracts.files import Files, Omissions, SessionFile
from enclave.contracts.policy import EgressPolicy, Language, RequestedLimits, SessionLimits
from enclave.contracts.wire import OrgId, SessionId, Timestamp, Wire

MAX_CODE_CHARS: Final = 512 * 1024
MAX_RESULT_BYTES: Final = 1024 * 1024


class Phase(StrEnum):
    """Where a session is; why it got there is its kill reason or its result."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    KILLED = "killed"
    TORN_DOWN = "torn_down"


class KillReason(StrEnum):
    """The limit that a killed session went over, or the call that only an exploit makes."""

    CPU_EXCEEDED = "cpu_exceeded"
    MEMORY_EXCEEDED = "memory_exceeded"
    WALL_CLOCK_EXCEEDED = "wall_clock_exceeded"
    PIDS_EXCEEDED = "pids_exceeded"
    SYSCALL_FORBIDDEN = "syscall_forbidden"


_LABEL_NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9_.\-/]*$"
_LABEL_NAMES: Final[dict[str, JsonValue]] = {"minLength": 1, "maxLength": 64, "pattern": _LABEL_NAME}

LabelName = Annotated[str, Field(min_length=1, max_length=64, pattern=_LABEL_NAME)]
LabelValue = Annotated[str, Field(max_length=256)]
Labels = Annotated[dict[LabelName, LabelValue], Field(max_length=32, json_schema_extra={"propertyNames": _LABEL_NAMES})]


TEMPLATE_NAME: Final = r"^[a-z0-9][a-z0-9_-]{0,62}$"
TemplateName = Annotated[str, Field(pattern=TEMPLATE_NAME)]


def _path(text: str) -> str:
    if any(part in ("", ".", "..") or part.lower() == ".git" for part in text.split("/")):
        raise ValueError("must be a path in the tree, with no part that is empty, . or ..")
    return text


_NO_CONTROL: Final = r"^[^\x00-\x1f\x7f]+$"
_REF: Final = r"^[^\x00-\x20\x7f~^:?*\[\\+@-][^\x00-\x20\x7f~^:?*\[\\]*$"
"""What git-check-ref-format(1) allows, and nothing that git could take for an option or a refspec."""

TreePath = Annotated[str, Field(min_length=1, max_length=512, pattern=_NO_CONTROL), AfterValidator(_path)]


class GitSource(Wire):
    """A git repository, whose tree a session finds read-only in `/work/src`, without its history.

    `url` is `https://host[:port]/path`, with no credentials in it: `binding` names the service binding whose secret is
    sent. `ref` is a branch, a tag or a whole commit id; without one it is the default branch. `entrypoint` is the path
    in the tree of the program to run; it takes the place of `code`.
    """

    url: Annotated[str, Field(min_length=1, max_length=2048, pattern=r"^[\x21-\x7e]+$")]
    ref: Annotated[str, Field(max_length=256, pattern=_REF)] | None = None
    binding: BindingName | None = None
    entrypoint: TreePath | None = None


class Source(Wire):
    """Files that a session starts with."""

    git: GitSource


class CreateSessionRequest(Wire):
    """A program to run, and under what terms. Only `code` is required, or a `source` with an entry point instead.

    `template` names an environment with packages; without one there is the standard library alone. With `code`, the
    tree of a `source` can be imported from. `files` are put beside the program, in its working directory, before it
    starts; they may have directories in their paths. When the session is over, it is posted to `webhook_url`,
    `https://host[:port]/path[?query]`, which is shown nowhere.
    """

    source: Source | None = None
    code: Annotated[str, Field(min_length=1, max_length=MAX_CODE_CHARS)] | None = Field(
        default=None, validate_default=True
    )
    language: Language = Language.PYTHON
    template: TemplateName | None = None
    limits: RequestedLimits = RequestedLimits()
    egress: EgressPolicy = EgressPolicy()
    service_bindings: tuple[BindingName, ...] = Field(default=(), max_length=32)
    webhook_url: str | None = Field(default=None, max_length=2048)
    labels: Labels = Field(default_factory=dict)
    files: Files = Field(default_factory=dict)

    @field_validator("code")
    @classmethod
    def _one_program(cls, code: str | None, known: ValidationInfo) -> str | None:
        if "source" not in known.data:
            return code  # a source that is malformed is told of already
        source = known.data["source"]
        entrypoint = None if source is None else source.git.entrypoint
        if (code is None) == (entrypoint is None):
            raise ValueError("give the program: either code or source.git.entrypoint")
        return code


class Usage(Wire):
    """What a session consumed, as the kernel counted it; null where the backend cannot tell."""

    cpu_seconds: float | None = None
    peak_memory_bytes: int | None = None
    peak_pids: int | None = None


def _absent(value: object) -> bool:
    return value is None


def _empty(value: object) -> bool:
    return not value


class SessionResult(Wire):
    """How the program ended and what it left.

    `exit_code` is null when the platform ended it. A program ended by a signal of its own doing has exit code
    128 + the signal, and `signal`. `result` is the value handed to `enclave.result`, and `result_error` says why a
    value that was handed over was not taken. `stdout` and `stderr` are the first `output_kib` of each, bytes that are
    not UTF-8 replaced. `error` says what went wrong on the platform's side, if anything did. `files` are those that the
    program left in the directory `out` of its working directory, and `files_omitted` how many entries of it were not
    kept, by reason; each is there only when there is any.
    """

    exit_code: int | None
    signal: int | None = None
    result: JsonValue = None
    result_error: str | None = None
    stdout: str = ""
    stderr: str = ""
    stdout_truncated: bool = False
    stderr_truncated: bool = False
    duration_ms: float = 0.0
    usage: Usage = Usage()
    error: str | None = None
    files: tuple[SessionFile, ...] = Field(default=(), exclude_if=_empty)
    files_omitted: Omissions = Field(default_factory=dict, exclude_if=_empty)


GrantedBindings = Annotated[tuple[BindingName, ...], Field(exclude_if=_empty)]
"""The service bindings a session may use; left out where there is none."""


class Session(Wire):
    """The durable record of one run. No field of it can hold a secret.

    `template`, `source` and `service_bindings` are there only when the request named any, `kill_reason` only when the
    session was killed, `result` only once it is terminal, and not in lists.
    """

    id: SessionId
    org_id: OrgId
    created_by: str
    phase: Phase
    language: Language
    template: TemplateName | None = Field(default=None, exclude_if=_absent)
    source: Source | None = Field(default=None, exclude_if=_absent)
    limits: SessionLimits
    egress: EgressPolicy
    service_bindings: GrantedBindings = ()
    kill_reason: KillReason | None = Field(default=None, exclude_if=_absent)
    result: SessionResult | None = Field(default=None, exclude_if=_absent)
    backend: str
    labels: Labels = Field(default_factory=dict)
    created_at: Timestamp
    started_at: Timestamp | None = None
    finished_at: Timestamp | None = None


class Ready(Wire):
    """That sessions can be created now."""

    ready: bool = True


class Health(Wire):
    """Whether the control plane answers, and whether the backend behind it can run sessions."""

    ok: bool
    backend: str
    backend_healthy: bool
