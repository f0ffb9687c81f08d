"""What one service takes and keeps, and how it says no: OpenAI's error shape, fixed texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from icd_engine.errors import IcdError, ImageError, PromptError, SettingsError

PROMPT_CHARACTERS = 1000
SETTING_CHARACTERS = 2000  # of a setting written as JSON
MOST_PICTURES = 4  # of one request
MOST_SEED = 2**53 - 2**10  # whole in every JSON reader, with room for n
RETRY_AFTER = 2  # seconds


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The same for every client. seconds: from the last byte of a request to the answer;
    body_seconds: from the first to the last. pixels: of a picture.

    batch: edits of one pass. queue: requests that wait beside those that the replicas hold.
    inversions: how many are kept, those used last; each for inversion_seconds.
    """

    replicas: int = 1
    batch: int = 8
    queue: int = 16
    seconds: float = 120.0
    body_seconds: float = 30.0
    body_bytes: int = 16 * 2**20
    pixels: int = 16_000_000
    inversions: int = 32
    inversion_seconds: float = 3600.0

    @property
    def held(self) -> int:
        """Requests that one replica is given: a pass that runs and the next."""
        return 2 * self.batch

    @property
    def capacity(self) -> int:
        """Requests that are in the service at once; the next one is refused."""
        return self.replicas * self.held + self.queue


class Problem(NamedTuple):
    """A kind of refusal: HTTP status, a name for programs and a line for people."""

    status: int
    code: str
    message: str


INVALID = Problem(400, "invalid_request", "the request is not understood")
NO_TOKEN = Problem(
    401, "invalid_token", "this service needs its token: Authorization: Bearer TOKEN"
)
UNKNOWN_INVERSION = Problem(
    404, "unknown_inversion", "no such inversion: it was never made, or its time is over"
)
STALLED = Problem(408, "body_too_slow", "the request did not arrive in the time allowed for it")
UNKNOWN_MODEL = Problem(404, "model_not_found", "this service has no model of that name")
TOO_LARGE = Problem(413, "body_too_large", "the request is larger than this service takes")
INTERNAL = Problem(
    500, "internal_error", "the service failed on this request; its log has more under this id"
)
FULL = Problem(503, "service_full", "the service is full: try again later")
NOT_READY = Problem(503, "not_ready", "the model is not ready: try again later")
STOPPING = Problem(503, "service_stopping", "the service is stopping: try again later")
LOST = Problem(503, "worker_lost", "the worker of this request was lost: try again later")
TOO_SLOW = Problem(504, "deadline_exceeded", "the request took longer than this service allows")

_INPUTS: dict[type[IcdError], str] = {
    ImageError: "invalid_image",
    PromptError: "invalid_prompt",
    SettingsError: "invalid_setting",
}


def too_many_pixels(what: str, most: int) -> ImageError:
    """Of a picture or a mask, whose size was read before its pixels."""
    return ImageError(f"the {what} has more than {most / 1e6:g} megapixels")


class ApiError(Exception):
    """A request that is refused. message: in place of the problem's own; param: the field that is
    wrong."""

    def __init__(self, problem: Problem, message: str | None = None, param: str | None = None):
        super().__init__(problem, message, param)  # all of them, so that it can be pickled
        self.problem = problem
        self.message = message or problem.message
        self.param = param

    @classmethod
    def of_input(cls, error: IcdError, param: str | None = None) -> ApiError:
        """What the engine says of an input: its own fixed texts, never those of Pillow."""
        code = next((code for kind, code in _INPUTS.items() if isinstance(error, kind)), None)
        return cls(INTERNAL) if code is None else cls(Problem(400, code, str(error)), param=param)

    def body(self, request_id: str) -> dict[str, Any]:
        """OpenAI's shape, and the id that the service's log has."""
        kind = "server_error" if self.problem.status >= 500 else "invalid_request_error"
        about = {
            "message": self.message,
            "type": kind,
            "param": self.param,
            "code": self.problem.code,
        }
        return {"error": {**about, "id": request_id}}

    @property
    def headers(self) -> dict[str, str]:
        if self.problem.status == 401:
            return {"WWW-Authenticate": "Bearer"}
        return {"Retry-After": str(RETRY_AFTER)} if self.problem.status == 503 else {}
