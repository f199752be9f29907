"""The sign-in that is kept on this machine: one file, and the lock that whoever renews it holds."""

import fcntl
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, ValidationError

from enclave.contracts.errors import Unauthenticated, Unavailable
from enclave.contracts.identity import Role
from enclave.contracts.wire import OrgId, Timestamp, Wire
from enclave.sdk.private import home, private_folder, read_private, write_private

SIGN_IN_FILE: Final = "sign-in.json"
LOCK_FILE: Final = "sign-in.lock"

AHEAD: Final = timedelta(seconds=60)
"""How long before its end a token is renewed: longer than an answer takes, and than clocks mostly differ."""

# A header can hold it.
Bearer = Annotated[str, Field(pattern=r"^[!-~]{1,8192}$", repr=False)]


class SignIn(Wire):
    """A user signed in to an org of the server at `base_url`. `id` stays the same as long as it is one sign-in to one
    org, however often it is renewed; `email` is None where a code was enough."""

    id: str
    base_url: str
    email: str | None
    org_id: OrgId
    role: Role
    token: Bearer
    expires_at: Timestamp
    refresh_token: Bearer

    @property
    def ends(self) -> bool:
        """Whether its token is over, or about to be, by this machine's clock."""
        return datetime.now(UTC) >= self.expires_at - AHEAD


@dataclass(frozen=True, slots=True)
class Held:
    """What is kept, as one has it who holds the lock: a sign-in, none, or a file that is none, for a `problem`."""

    sign_in: SignIn | None = None
    problem: str | None = field(default=None)


@dataclass(frozen=True, slots=True)
class SignInFile:
    """Where the sign-in is kept."""

    folder: Path = field(default_factory=home)

    @property
    def path(self) -> Path:
        """The file itself."""
        return self.folder / SIGN_IN_FILE

    def read(self) -> SignIn | None:
        """The sign-in, None if there is none. Raises Unauthenticated for a file that is damaged or not private."""
        text = read_private(self.path)
        try:
            return None if text is None else SignIn.model_validate_json(text, extra="ignore")
        except ValidationError:
            # Without the details: they would show the tokens.
            raise Unauthenticated(f"{self.path} is damaged: run `enclave login`, or `enclave logout`") from None

    def held(self) -> Held:
        """The same for one who will replace it, whatever it is."""
        try:
            return Held(self.read())
        except Unauthenticated as error:
            return Held(problem=error.detail)

    def claim(self) -> int | None:
        """The lock, None while another holds it; `release` it. Raises Unavailable."""
        private_folder(self.folder)
        try:
            lock = os.open(self.folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise Unavailable(f"{self.folder / LOCK_FILE} cannot be opened: {error.strerror}") from None
        try:
            # Of the file as it was opened: threads of one process exclude each other too (flock(2)).
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        except OSError as error:
            os.close(lock)
            raise Unavailable(f"{self.folder / LOCK_FILE} cannot be locked: {error.strerror}") from None
        return lock

    def release(self, lock: int) -> None:
        """Let others have it; also where a process that was forked meanwhile still has the file open."""
        fcntl.flock(lock, fcntl.LOCK_UN)
        os.close(lock)

    def keep(self, sign_in: SignIn | None) -> None:
        """Replace what is kept, or with None remove it. Raises Unavailable, and then nothing has changed."""
        if sign_in is not None:
            write_private(self.path, sign_in.model_dump_json())
            return
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise Unavailable(f"{self.path} cannot be removed: {error.strerror}") from None
