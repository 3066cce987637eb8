"""A request of the gateway as a value, which either client sends."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args

import httpx

from unet_factory_client.files import Scan, one_file

_Answer = TypeVar("_Answer")
_Method = TypeVar("_Method", bound=Callable[..., Any])

_PROBE_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Call(Generic[_Answer]):
    """One request that is safe to repeat; ``parse`` makes its result of the answer.

    ``scan`` is uploaded beside the fields of ``form``; the answer's body goes to the file ``to``, if there is one.
    ``again`` tells from an answer whether to ask once more. Probes are not ``persistent``: they are sent only once.
    """

    method: str
    path: str
    parse: Callable[[httpx.Response], _Answer]
    params: Mapping[str, Any] | None = None
    headers: Mapping[str, str] | None = None
    json: Any = None
    form: Mapping[str, str] = field(default_factory=dict)
    scan: Scan | None = None
    to: Path | None = None
    again: Callable[[httpx.Response], bool] = lambda _: False
    persistent: bool = True

    def upload(self) -> AbstractContextManager[Path | None]:
        """The scan as one file; it may take time to make one of a folder or an image."""
        return nullcontext() if self.scan is None else one_file(self.scan)

    @contextmanager
    def request(self, http: httpx.Client | httpx.AsyncClient, upload: Path | None) -> Iterator[httpx.Request]:
        """The request, whose body is read from the file ``upload`` while it is sent."""
        with nullcontext() if upload is None else upload.open("rb") as file:
            fields: dict[str, Any] = {name: (None, text) for name, text in self.form.items()}
            if file is not None:
                fields["file"] = ("scan", file)  # a neutral name: those of scans tend to name the patient
            yield http.build_request(
                self.method,
                self.path,
                params=self.params,
                headers=self.headers,
                json=self.json,
                files=fields or None,
                timeout=httpx.USE_CLIENT_DEFAULT if self.persistent else _PROBE_TIMEOUT_S,
            )


def documented_by(describe: Callable[..., Call[Any]]) -> Callable[[_Method], _Method]:
    """Give a client's method the name, docstring and signature of the call that it sends."""

    def document(method: _Method) -> _Method:
        call = signature(describe)
        parameters = [Parameter("self", Parameter.POSITIONAL_ONLY), *call.parameters.values()]
        (answer,) = get_args(call.return_annotation)
        method.__name__, method.__doc__ = describe.__name__, describe.__doc__
        vars(method)["__signature__"] = call.replace(parameters=parameters, return_annotation=answer)
        return method

    return document
