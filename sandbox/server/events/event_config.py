"""The keys of `config` that the server uses, for webhooks and schedules.

Alyx reads the same manifests and has keys of its own, so an unknown key is a remark, not an error.
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
    """How a schedule's runs start. `timeout`, in seconds, holds for each run.

    With `overlap: allow`, or Alyx's `skip_if_running: false`, a run may start before the one
    before it has ended.
    """

    timeout: Duration | None = None
    overlap: Literal["skip", "allow"] | None = None
    skip_if_running: bool = True

    @property
    def may_overlap(self) -> bool:
        return not self.skip_if_running if self.overlap is None else self.overlap == "allow"


class WebhookConfig(_Config):
    """The form of a webhook's signature, and how to run and answer a delivery.

    `timeout`, in seconds, holds for the execution. `tolerance`, in seconds, is the highest age of
    a signature of the format `stripe`, the default for a header `Stripe-Signature`.
    `delivery_header` names the header with the delivery's id. `answer` is the body for a sender
    that waits.
    """

    timeout: Duration | None = None
    format: Literal["plain", "stripe"] | None = None
    tolerance: Duration = 300.0
    delivery_header: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    answer: Literal["response", "output"] = "response"


C = TypeVar("C", bound=_Config)


def read_config(model: type[C], values: Mapping[str, Any]) -> tuple[C, list[str]]:
    """The config, and remarks for the author of the manifest.

    Raises:
        ValueError: a value is invalid.
    """
    unknown = sorted(set(values) - set(model.model_fields))
    remarks = [f"config.{name} is not used here" for name in unknown]
    try:
        return model.model_validate(values), remarks
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        message = first["msg"].removeprefix("Value error, ")
        raise ValueError(f"config.{first['loc'][0]}: {message}") from None
