"""The base of every typed value that is stored or sent: immutable, and strict about what it does not know."""

from pydantic import BaseModel, ConfigDict, ValidationError


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def faults_of(error: ValidationError) -> str:
    """Where a document is wrong, and how, in one line."""
    return "; ".join(f"{'.'.join(map(str, fault['loc'])) or 'file'}: {fault['msg']}" for fault in error.errors())
