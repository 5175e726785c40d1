"""`config` of webhooks and schedules: the keys that the server heeds.

Manifests are shared with Alyx, which has keys of its own: what is not known here is told, and does
no harm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sandbox.config.field_types import Duration  # noqa: TC001 - pydantic reads it

if TYPE_CHECKING:
    from collections.abc import Mapping


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class ScheduleConfig(_Config):
    """How a schedule's runs are started. `timeout`, in seconds, is each one's.

    With `overlap: allow` a run may begin before the last has ended; Alyx's
    `skip_if_running: false` says the same.
    """

    timeout: Duration | None = None
    overlap: Literal["skip", "allow"] | None = None
    skip_if_running: bool = True

    @property
    def may_overlap(self) -> bool:
        """Whether a run may begin while another is under way."""
        return not self.skip_if_running if self.overlap is None else self.overlap == "allow"


class WebhookConfig(_Config):
    """How a webhook's signature looks, and what is done with what it signs.

    `timeout` is the execution's. With `format: stripe`, which is what a header `Stripe-Signature`
    has, `tolerance` is how old a signature may be. Both are in seconds. `delivery_header` names
    the header with the delivery's id; `answer` is what a sender that waits is sent.
    """

    timeout: Duration | None = None
    format: Literal["plain", "stripe"] | None = None
    tolerance: Duration = 300.0
    delivery_header: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    answer: Literal["response", "output"] = "response"


C = TypeVar("C", bound=_Config)


def read_config(model: type[C], values: Mapping[str, Any]) -> tuple[C, list[str]]:
    """The config, and what has to be said about it.

    Raises:
        ValueError: a value cannot be used.
    """
    unknown = sorted(set(values) - set(model.model_fields))
    remarks = [f"config.{name} is not used here" for name in unknown]
    try:
        return model.model_validate(values), remarks
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        message = first["msg"].removeprefix("Value error, ")
        raise ValueError(f"config.{first['loc'][0]}: {message}") from None
