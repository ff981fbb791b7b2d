"""What an audit finds."""

from dataclasses import dataclass
from enum import StrEnum

from weakseg.errors import UserError


class Severity(StrEnum):
    """Whether work can go on."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong in a data set.

    Attributes:
        severity: Errors stop a run, warnings are printed.
        check: Short name of the check, such as ``"size"``; findings of one check are printed together.
        where: The file it is about.
        problem: What is wrong, without a final full stop.
        remedy: What to do about it.
        count: Number of images it is about.
    """

    severity: Severity
    check: str
    where: str
    problem: str
    remedy: str
    count: int = 1

    @classmethod
    def of(cls, error: UserError, check: str, severity: Severity = Severity.ERROR) -> "Finding":
        """What a ``UserError`` says, as a finding."""
        return cls(severity, check, str(error.where or ""), error.problem, error.remedy or "")
