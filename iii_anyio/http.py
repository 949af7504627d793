"""HTTP in models: what handlers of ``http`` triggers get and return, and functions that the engine calls by URL.

Owns the shapes. Below: pydantic. Above: the worker, and ``_runtime/binding.py``, which validates into and out of them
by their annotations and knows none of them by name.
"""

from __future__ import annotations

from abc import ABCMeta
from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, Literal, TypeAlias, TypeVar, cast, overload

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from ._streaming import http

__all__ = (
    "ApiRequest",
    "ApiResponse",
    "HttpAuthApiKey",
    "HttpAuthBearer",
    "HttpAuthConfig",
    "HttpAuthHmac",
    "HttpInvocationConfig",
    "HttpMethod",
    "HttpRequest",
    "HttpResponse",
    "MappingModel",
    "http",
)

if TYPE_CHECKING:
    # The default lets `HttpRequest` stand alone under strict type checkers; at run time a bare parameter is `Any` too.
    import typing_extensions

    TInput = typing_extensions.TypeVar("TInput", default=Any)
    TOutput = typing_extensions.TypeVar("TOutput", default=Any)
else:
    TInput = TypeVar("TInput")
    TOutput = TypeVar("TOutput")

HttpMethod: TypeAlias = Literal["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]
"""Methods of an ``http`` trigger. The engine answers OPTIONS itself, before any route (H-54)."""


class HttpAuthHmac(BaseModel, defer_build=True):
    """Sign each request: header ``x-iii-signature``, HMAC-SHA256 over timestamp and body.

    Attributes:
        type: ``hmac``.
        secret_key: Name of the engine's environment variable that holds the secret.
    """

    type: Literal["hmac"] = "hmac"
    secret_key: str


class HttpAuthBearer(BaseModel, defer_build=True):
    """Send ``Authorization: Bearer ...``.

    Attributes:
        type: ``bearer``.
        token_key: Name of the engine's environment variable that holds the token.
    """

    type: Literal["bearer"] = "bearer"
    token_key: str


class HttpAuthApiKey(BaseModel, defer_build=True):
    """Send a key in a header of your choice.

    Attributes:
        type: ``api_key``.
        header: Name of the header.
        value_key: Name of the engine's environment variable that holds the key.
    """

    type: Literal["api_key"] = "api_key"
    header: str
    value_key: str


HttpAuthConfig: TypeAlias = HttpAuthHmac | HttpAuthBearer | HttpAuthApiKey


class HttpInvocationConfig(BaseModel, defer_build=True):
    """A function that lives behind a URL: the engine POSTs the payload there, no handler of this worker runs.

    Attributes:
        url: Where to; the engine's policy asks for https and a public address unless it was told otherwise.
        method: HEAD and OPTIONS are not possible: the engine drops such a registration without a word (§10).
        timeout_ms: The engine's default is 30 seconds.
        headers: Added to every request.
        auth: How the engine proves who it is.
    """

    url: str
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"] = "POST"
    timeout_ms: int | None = None
    headers: dict[str, str] | None = None
    auth: HttpAuthConfig | None = None


def as_invocation(value: object) -> dict[str, Any] | None:
    """The ``invocation`` field for an HTTP function (§5.1); ``None`` when ``value`` is something else.

    Takes our ``HttpInvocationConfig`` and upstream's. What is not set stays out: the engine drops the whole
    registration for a ``headers`` that is null (§4.1).
    """
    if not isinstance(value, HttpInvocationConfig):
        if not isinstance(value, BaseModel) or not type(value).model_fields.keys() >= _INVOCATION_FIELDS:
            return None
        value = HttpInvocationConfig.model_validate(value.model_dump())
    return value.model_dump(mode="json", exclude_none=True)


_INVOCATION_FIELDS: Final = HttpInvocationConfig.model_fields.keys()


class MappingModel(BaseModel, defer_build=True):
    """A model that reads like the JSON object it was made of, too.

    Upstream hands annotated handlers a dict, so their code says ``data["body"]``, ``data.get("path")``,
    ``"body" in data``, ``dict(data)`` and ``HttpRequest(**data)``. All of that works on such a model; iterating gives
    keys. Keys are the field names and, where a model allows extra keys, those.

    A field named ``get``, ``keys``, ``values`` or ``items`` hides the method of that name.
    """

    def __getitem__(self, key: str) -> Any:
        if key in type(self).model_fields:
            return getattr(self, key)
        return (self.model_extra or {})[key]

    def __contains__(self, key: object) -> bool:
        return key in type(self).model_fields or key in (self.model_extra or {})

    def __iter__(self) -> Iterator[str]:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        yield from type(self).model_fields
        yield from self.model_extra or {}

    def __len__(self) -> int:
        return len(type(self).model_fields) + len(self.model_extra or {})

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key, or ``default``."""
        try:
            return self[key]
        except KeyError:
            return default

    def keys(self) -> KeysView[str]:
        """Field names, then extra keys."""
        return KeysView(cast("Mapping[str, Any]", self))

    def values(self) -> ValuesView[Any]:
        """Their values."""
        return ValuesView(cast("Mapping[str, Any]", self))

    def items(self) -> ItemsView[str, Any]:
        """Pairs of both."""
        return ItemsView(cast("Mapping[str, Any]", self))


# Not a base class: that would bring its own `__eq__`.
ABCMeta.register(cast("ABCMeta", Mapping), MappingModel)


class HttpRequest(MappingModel, Generic[TInput]):
    """An HTTP request with its body read and parsed.

    ``HttpRequest[Order]`` validates ``body`` as an ``Order``. A body that is no JSON arrives as ``None`` (H-24), which
    then is refused unless the parameter allows it. What else the engine sends (``path``, ``trigger``, ``request_body``,
    ``response``) is there as attribute and by key.

    Attributes:
        path_params: As in the URL: percent escapes are not decoded (H-20).
        query_params: Decoded; of a repeated key the last value (H-21).
        body: The parsed JSON, or ``None``.
        headers: Names in lower case (H-22).
        method: In upper case.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow")

    path_params: dict[str, str] = Field(
        default_factory=dict, validation_alias=AliasChoices("path_params", "pathParams")
    )
    query_params: dict[str, str | list[str]] = Field(
        default_factory=dict, validation_alias=AliasChoices("query_params", "queryParams")
    )
    body: TInput = Field(default=cast("Any", None), validate_default=True)
    headers: dict[str, str | list[str]] = Field(default_factory=dict)
    method: str = "GET"


class HttpResponse(MappingModel, Generic[TOutput]):
    """What a handler of an ``http`` trigger returns.

    The parameter documents the body and checks nothing, as upstream's: an error answer of ``HttpResponse[Receipt]``
    may have any body. ``model_dump(by_alias=True)`` says ``statusCode``; returned by a handler the engine gets
    ``status_code``, the only name it reads (H-37).

    Attributes:
        status_code: 100 to 999; also taken as ``statusCode``.
        body: Sent as JSON unless ``headers`` name another content type and it is text.
        headers: For a repeated header return a plain dict, whose ``headers`` may be a list of ``"Name: value"`` (H-39).
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(populate_by_name=True, arbitrary_types_allowed=True)

    status_code: int = Field(alias="statusCode")
    body: Any = None
    headers: dict[str, str] = Field(default_factory=dict)

    if TYPE_CHECKING:
        # Type checkers know one name of a field; ours has two.
        @overload
        def __init__(self, *, status_code: int, body: Any = None, headers: dict[str, str] = ...) -> None: ...
        @overload
        def __init__(self, *, statusCode: int, body: Any = None, headers: dict[str, str] = ...) -> None: ...
        def __init__(self, **data: Any) -> None: ...


ApiRequest = HttpRequest
ApiResponse = HttpResponse
