"""REST of the agent-trainer: models with cards and modules, trainings with their progress."""

import json
from collections.abc import AsyncIterator

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response, StreamingResponse

from services.agent_trainer.room import AgentTrainer
from services.agent_trainer.rows import Training
from shared.api import Cursor, Limit, Page, decode_cursor, page
from shared.errors import ContractError
from shared.manifest import Manifest
from shared.proof import parse
from shared.schemas import ModelCard

__all__ = ["router"]

_NEWEST = (2**62, "")


def _before(cursor: str | None) -> tuple[int, str]:
    place = decode_cursor(cursor)
    if place is None:
        return _NEWEST
    try:
        time_ms, key = place
        return int(time_ms), str(key)
    except (TypeError, ValueError) as error:
        raise ContractError("the cursor is not one that a page gave as `next`") from error


_BYTES = "application/octet-stream"


class _Module(Response):
    media_type = "application/wasm"


class _File(Response):
    media_type = _BYTES


def _named(file: str) -> dict[str, str]:
    return {"Content-Disposition": f'attachment; filename="{file}"'}


class _Lines(StreamingResponse):
    media_type = "text/event-stream"


def router(logic: AgentTrainer) -> APIRouter:
    """Return the room's routes."""
    routes = APIRouter()

    @routes.get("/models", response_model_exclude_none=True)
    def list_models(limit: Limit = 50, cursor: Cursor = None) -> Page[ModelCard]:
        """List models with their cards, the newest first."""
        cards = logic.library.list(_before(cursor), limit + 1)
        return page(cards, limit, lambda card: [card.time_ms, card.subject_id])

    @routes.post(
        "/models/import", status_code=201, response_model_exclude_none=True,
        openapi_extra={"requestBody": {"required": True, "content": {_BYTES: {}}}},
    )  # fmt: skip
    async def import_model(
        request: Request, replace: bool = Query(False, description="replace a model that is there")
    ) -> ModelCard:
        """Take in a module that was exported elsewhere; the body is the file."""
        return await logic.library.import_module(await request.body(), replace)

    @routes.get("/models/{model_id}", response_model_exclude_none=True)
    def show_model(model_id: str) -> ModelCard:
        """Show one model's card; the id may also be its routine's."""
        return logic.library.card(model_id)

    @routes.get("/models/{model_id}/module", response_class=_Module)
    def export_model(model_id: str) -> _Module:
        """Return the signed module."""
        return _Module(
            logic.library.module(model_id),
            headers=_named("agent.wasm"),
        )

    @routes.get("/models/{model_id}/config", response_model_exclude_none=True)
    def export_config(model_id: str) -> Manifest:
        """Return what the module says of itself: what the weights' names and inputs mean."""
        return parse(logic.library.module(model_id)).manifest

    @routes.get("/models/{model_id}/weights", response_class=_File)
    def export_weights(model_id: str) -> _File:
        """Return the weights as safetensors, f32, named as in the config's network."""
        return _File(logic.library.beside(model_id, "weights"), headers=_named("model.safetensors"))

    @routes.get("/models/{model_id}/onnx", response_class=_File)
    def export_onnx(model_id: str) -> _File:
        """Return the network as ONNX, f32: x (elements, F), g (1, G) -> logits, finish."""
        return _File(logic.library.beside(model_id, "onnx"), headers=_named("model.onnx"))

    @routes.delete("/models/{model_id}", status_code=204)
    async def delete_model(model_id: str) -> None:
        """Delete a model."""
        await logic.library.delete(model_id)

    @routes.post("/cards", status_code=201, response_model_exclude_none=True)
    async def add_card(card: ModelCard) -> ModelCard:
        """Publish the card of an adapter."""
        await logic.library.add_adapter(card)
        return card

    @routes.get("/trainings")
    def list_trainings(limit: Limit = 50, cursor: Cursor = None) -> Page[Training]:
        """List trainings, the newest first."""
        found = logic.trainings(_before(cursor), limit + 1)
        return page(found, limit, lambda training: [training.asked_ms, training.id])

    @routes.get("/trainings/{training_id}")
    def show_training(training_id: str) -> Training:
        """Show one training."""
        return logic.training(training_id)

    @routes.post("/trainings/{training_id}/cancel", status_code=202)
    async def cancel_training(training_id: str) -> Training:
        """End a training; what was there before stays."""
        await logic.cancel(training_id)
        return logic.training(training_id)

    @routes.get("/trainings/{training_id}/events", response_class=_Lines)
    async def follow_training(training_id: str) -> _Lines:
        """Follow a training as server-sent events, from its start to its end."""
        logic.training(training_id)

        async def lines() -> AsyncIterator[str]:
            async for line in logic.progress(training_id):
                yield f"event: {line.get('event', 'progress')}\ndata: {json.dumps(line)}\n\n"

        return _Lines(lines())

    @routes.get("/trainings/{training_id}/tensorboard", response_class=_File)
    def export_events(training_id: str) -> _File:
        """Return a training's figures so far as an event file of TensorBoard."""
        from services.agent_trainer.tensorboard_file import write_events  # half a second

        name = f"events.out.tfevents.{logic.training(training_id).asked_ms // 1000}.wat"
        return _File(write_events(logic.told(training_id)), headers=_named(name))

    return routes
