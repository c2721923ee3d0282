"""This machine's logins, with an /etc of the test's own: accounts, PAM's rules, what `persist install` puts there."""

import ctypes
import ctypes.util
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from town import kernel

HUMAN = "josh"
# What Debian's packages of these names ship, as far as account rules go.
SERVICES = {
    "cron": "@include common-auth\nsession required pam_loginuid.so\n@include common-account\n",
    "atd": "auth required pam_env.so\n@include common-auth\n@include common-account\n",
    "sshd": "@include common-auth\naccount required pam_nologin.so\n@include common-account\n",
    "systemd-user": "@include common-account\nsession required pam_limits.so\n",
}
ASKED = ("su", "su-l", "login", *SERVICES)  # machinectl asks as `login` (systemd-run(1), machinectl(1))
_SUCCESS = 0
_REFUSED = (3, 7)  # PAM_SERVICE_ERR: there is no list of who is open yet; PAM_AUTH_ERR: there is one


@contextmanager
def etc(at: Path, users: dict[str, int]) -> Iterator[Path]:
    """/etc, of which no change stays; with accounts for `users` and a human. Only this process sees it."""
    for name in ("upper", "work"):
        (at / name).mkdir(parents=True)
    kernel.mount("overlay", "/etc", "overlay", 0, f"lowerdir=/etc,upperdir={at}/upper,workdir={at}/work")
    try:
        for name, uid in {**users, HUMAN: 41000}.items():
            for table, line in (
                ("passwd", f"{name}:x:{uid}:{uid}::/nonexistent:/bin/sh"),
                ("group", f"{name}:x:{uid}:"),
                ("shadow", f"{name}:*:20000:0:99999:7:::"),
            ):
                with Path("/etc", table).open("a") as file:
                    file.write(f"{line}\n")
        for service, rules in SERVICES.items():
            Path("/etc/pam.d", service).write_text(rules)
        yield Path("/etc")
    finally:
        kernel.umount("/etc", kernel.MNT_DETACH)


def su(user: str, *options: str) -> int:
    """The status of root's own su."""
    done = subprocess.run(["su", *options, user, "-c", "exit 0"], capture_output=True, cwd="/", check=False)
    return done.returncode


class _Conversation(ctypes.Structure):
    _fields_ = (("function", ctypes.c_void_p), ("data", ctypes.c_void_p))


def let_in(service: str, user: str) -> bool:
    """What PAM's account rules say for a login of that service: pam_acct_mgmt(3)."""
    pam = ctypes.CDLL(ctypes.util.find_library("pam"))
    handle = ctypes.c_void_p()
    conversation = _Conversation(None, None)
    started = pam.pam_start(service.encode(), user.encode(), ctypes.byref(conversation), ctypes.byref(handle))
    assert started == _SUCCESS
    try:
        answer = pam.pam_acct_mgmt(handle, 0)
    finally:
        pam.pam_end(handle, 0)
    assert answer in (_SUCCESS, *_REFUSED), answer
    return bool(answer == _SUCCESS)
