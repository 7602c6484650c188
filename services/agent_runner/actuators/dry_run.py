"""Says what a run would do, without doing it: looks at the real pages, acts on a copy.

Follows plain links of the same origin, because looking is all they do. What is typed, chosen or
ticked changes only the copy, so the agent goes on as if it had happened. The first step whose
answer only the application knows (a button, Enter) ends it. Does not cover how a page reacts to
being filled in: sums, suggestions, fields that appear.
"""

from services.agent_runner.actuators import Performed
from services.agent_runner.actuators.browser import (
    BrowserActuator,
    in_words,
    snapshot_of,
)
from services.agent_runner.actuators.fields import option_reading
from shared.errors import StepRefused
from shared.manifest import Op
from shared.page import PageElement, PageTree, selector_of
from shared.schemas.raw_events import Snapshot, Target

__all__ = ["DryRunActuator"]

_FIELD_ROLES = ("textbox", "searchbox", "spinbutton", "combobox", "listbox")
_Place = tuple[str, str | None]  # selector and name: an element of the page from look to look


class DryRunActuator:
    """Look through a browser actuator; `changes` holds what would stand in the fields."""

    def __init__(self, browser: BrowserActuator) -> None:
        self._browser = browser
        self._changes: dict[_Place, PageElement] = {}
        self._tree: PageTree | None = None

    @property
    def target(self) -> Target:
        """Return browser instance and tab."""
        return self._browser.target

    async def open(self, url: str) -> None:
        """Show `url`, with nothing filled in. Errors: ActuatorError."""
        self._changes.clear()
        self._tree = None
        await self._browser.open(url)

    async def observe(self) -> Snapshot:
        """Return the page as it would look. Errors: ActuatorError."""
        tree = await self._browser.read()
        if self._tree is not None and tree.url != self._tree.url:
            self._changes.clear()  # the page moved on by itself
        items = tuple(self._as_changed(tree, index) for index in range(len(tree.items)))
        self._tree = tree.model_copy(update={"items": items})
        return snapshot_of(self._tree)

    async def perform(
        self, op: Op, element: int, *, text: str | None = None, key: str | None = None
    ) -> Performed:
        """Say what the step would do, and note its effect on the copy. Errors: StepRefused."""
        self._browser.item(element)
        assert self._tree is not None
        item = self._tree.items[element]
        match op:
            case "type_text":
                assert text is not None
                return await self._type(item, element, text)
            case "select_option":
                assert text is not None
                return await self._select(item, element, text)
            case "click" | "double_click":
                return await self._click(op, item, element)
            case "hover":
                await self._browser.ask("locate", element)
                return Performed(f"would point at {in_words(item)}")
            case "press_key":
                return _ended(f"press {key} in {in_words(item)}")

    async def settle(self, timeout_ms: int = 3000) -> bool:
        """Wait until the real page stands still."""
        return await self._browser.settle(timeout_ms)

    async def close(self) -> None:
        """Let go of the screen."""
        await self._browser.close()

    def _as_changed(self, tree: PageTree, index: int) -> PageElement:
        item = tree.items[index]
        if all(item.role != changed.role for changed in self._changes.values()):
            return item
        changed = self._changes.get((selector_of(tree.items, index), item.name))
        if changed is None:
            return item
        return item.model_copy(update={"value": changed.value, "states": changed.states})

    def _change(self, element: int, **fields: object) -> None:
        assert self._tree is not None
        items = self._tree.items
        place = (selector_of(items, element), items[element].name)
        changed = items[element].model_copy(update=fields)
        self._changes[place] = changed
        # The next step may come without another look.
        self._tree = self._tree.model_copy(
            update={"items": (*items[:element], changed, *items[element + 1 :])}
        )

    async def _type(self, item: PageElement, element: int, text: str) -> Performed:
        field = await self._browser.ask("field", element)
        await self._browser.check_secret(field, self._browser.item(element), text)
        if field["tag"] == "select":
            raise StepRefused(f"{in_words(item)} is a list: an option is chosen, not typed")
        await self._browser.ask("locate", element)
        self._change(element, value=" ".join(text.split())[:200])
        return Performed(f'would type "{text}" into {in_words(item)}')

    async def _select(self, item: PageElement, element: int, text: str) -> Performed:
        field = await self._browser.ask("field", element)
        if field["tag"] != "select":
            raise StepRefused(f"{in_words(item)} is not a list to choose an option from")
        options = field["options"]
        chosen = options[option_reading(options, text, in_words(item))]["text"]
        await self._browser.ask("locate", element)
        self._change(element, value=chosen[:200])
        return Performed(f'would choose "{chosen}" in {in_words(item)}')

    async def _click(self, op: Op, item: PageElement, element: int) -> Performed:
        await self._browser.ask("locate", element)
        name = in_words(item)
        plain = item.role == "link" and op == "click"
        if plain and await self._browser.follow(element) is not None:
            self._changes.clear()
            return Performed(f"followed {name}, a plain link")
        if item.role in ("checkbox", "radio") and item.tag == "input" and op == "click":
            return self._tick(item, element)
        if item.role in _FIELD_ROLES:
            return Performed(f"would click {name}, to write in it")
        return _ended(f"{op.replace('_', '-')} {name}")

    def _tick(self, item: PageElement, element: int) -> Performed:
        assert self._tree is not None
        was = "checked" in item.states
        if item.role == "radio":
            for index, other in enumerate(self._tree.items):
                if other.role == "radio" and other.label == item.label:
                    self._change(index, states=_without(other))
        now = _without(item) if was and item.role == "checkbox" else ("checked", *_without(item))
        self._change(element, states=now)
        return Performed(f"would {'untick' if 'checked' not in now else 'tick'} {in_words(item)}")


def _without(item: PageElement) -> tuple[str, ...]:
    return tuple(state for state in item.states if state != "checked")


def _ended(act: str) -> Performed:
    return Performed(f"would {act}; what follows depends on it", ends_here=True)
