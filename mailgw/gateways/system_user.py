"""Users and groups of this machine, and whether programs can be run as them."""

import os
from grp import getgrgid, getgrnam
from pwd import getpwnam, getpwuid

from attrs import frozen

__all__ = ["NotPermitted", "SystemUser"]


class NotPermitted(Exception):
    """A program must not, or cannot, be run as this user; the text says why."""


@frozen
class SystemUser:
    """Whom programs are run as."""

    uid: int | None = None  # None: who we are when it is run
    gid: int | None = None

    @classmethod
    def named(cls, user: str, group: str) -> "SystemUser":
        """Look up names or numbers; an empty group is the user's own. Raises ValueError."""
        uid = gid = None
        if user:
            try:
                entry = getpwuid(int(user)) if user.isdecimal() else getpwnam(user)
            except KeyError:
                raise ValueError(f'there is no user "{user}" on this machine') from None
            uid, gid = entry.pw_uid, entry.pw_gid
        if group:
            try:
                gid = (getgrgid(int(group)) if group.isdecimal() else getgrnam(group)).gr_gid
            except KeyError:
                raise ValueError(f'there is no group "{group}" on this machine') from None
        return cls(uid, gid)

    @property
    def home(self) -> str:
        """The home directory, or ``/`` where there is none."""
        try:
            return getpwuid(os.geteuid() if self.uid is None else self.uid).pw_dir
        except KeyError:
            return "/"

    def change(self) -> tuple[int | None, int | None]:
        """User and group to change to before a program is run, None where there is nothing to change. Raises NotPermitted."""
        ours = os.geteuid()
        if ours == 0 and self.uid is None:
            raise NotPermitted("mailgw runs as root, and no user is set for programs")
        uid = None if self.uid in (None, ours) else self.uid
        gid = None if self.gid in (None, os.getegid()) else self.gid
        if ours != 0 and (uid, gid) != (None, None):
            raise NotPermitted("only root can run programs as another user or group")
        return uid, gid
