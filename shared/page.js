// Watches a page and reads its element tree; runs in an isolated world the page cannot reach.
//
// One expression: a function of the world's mode, "watch" or "act". Both modes read the same tree;
// "watch" also reports what a person does through the binding `watEmit`, "act" also finds elements
// again. `isNew` says that the tab has just been opened: what it shows has then just arrived.
// Nothing here writes to the page but scrolling and focus on behalf of the actuator.
// The value of a secret field never leaves this script: at most it says where on the page the same
// text stands for all to see. Not covered: frames of other sites, closed shadow
// roots, pictures and canvas.
(mode, isNew) => {
  "use strict";
  if (globalThis.wat) return;

  const MAX_ELEMENTS = 1000;
  const MAX_CHARS = 200; // of a text in a snapshot
  const MAX_CLASSES = 8;
  const MAX_CLASS_CHARS = 40;
  const MAX_SHAPES = 200; // of drawings in a snapshot
  const POINTED = /hover|focus|(^|-)active|selecting/;
  const SHAPES = new Set([
    "circle", "ellipse", "line", "path", "polygon", "rect", "text", "tspan",
  ]);
  const MAX_VALUE_CHARS = 8192; // of what was typed or copied
  const FOCUS_AGE_MS = 5000; // how long the state before a field took the focus counts as "before"

  const clean = (text) => (text || "").replace(/[\s\u00a0\u200b]+/g, " ").trim();
  const short = (text) => clean(text).slice(0, MAX_CHARS);
  // A text that is cut, or a page, may hold half a character: what reads JSON takes only whole ones.
  const toJson = (told) => JSON.stringify(
    told, (_, value) => (typeof value === "string" ? value.toWellFormed() : value));

  // Asking each element costs a fifth of a reading; most pages have nothing editable to find.
  let mayEdit = true;
  const isEditable = (el) => mayEdit && el.isContentEditable;

  // ---- secrets -------------------------------------------------------------------------------
  const everSecret = new WeakSet(); // a field that once was a password stays one when shown
  const SECRET_AUTOCOMPLETE = /(^|\s)(cc-[a-z-]+|one-time-code|current-password|new-password)(\s|$)/i;
  const SECRET_NAME = /(^|[^a-z])(pass(word|wd|phrase|code)?|passwort|kennwort|pwd|cvv2?|cvc2?|otp|pin)([^a-z]|$)/i;

  function isSecret(el) {
    if (!el || el.nodeType !== 1) return false;
    if (everSecret.has(el)) return true;
    const field = el.localName === "input" || el.localName === "textarea" || isEditable(el);
    if (!field) return false;
    const secret = el.type === "password"
      || SECRET_AUTOCOMPLETE.test(el.getAttribute("autocomplete") || "")
      || SECRET_NAME.test(el.getAttribute("name") || "")
      || SECRET_NAME.test(el.id.replace(/([a-z])([A-Z])/g, "$1-$2"))
      || (getComputedStyle(el).webkitTextSecurity || "none") !== "none";
    if (secret) everSecret.add(el);
    return secret;
  }

  // A field shown by "show password" before anything here looked at it.
  new MutationObserver((changes) => {
    for (const change of changes) {
      if (change.oldValue === "password") everSecret.add(change.target);
      else isSecret(change.target);
    }
  }).observe(document, {
    subtree: true, attributes: true, attributeOldValue: true,
    attributeFilter: ["type", "autocomplete"],
  });

  // ---- the composed tree ---------------------------------------------------------------------
  function parentOf(node) {
    const parent = node.assignedSlot || node.parentNode;
    return parent instanceof ShadowRoot ? parent.host : parent;
  }

  function childrenOf(el) {
    if (el.shadowRoot) {
      mayEdit = true; // querySelector does not look in here
      return el.shadowRoot.childNodes;
    }
    if (el.localName === "slot") {
      const assigned = el.assignedNodes();
      if (assigned.length) return assigned;
    }
    return el.childNodes;
  }

  function contains(ancestor, node) {
    for (let at = node; at; at = parentOf(at)) if (at === ancestor) return true;
    return false;
  }

  function activeElement() {
    let active = document.activeElement;
    while (active && active.shadowRoot && active.shadowRoot.activeElement) {
      active = active.shadowRoot.activeElement;
    }
    return active === document.body || active === document.documentElement ? null : active;
  }

  // ---- roles ---------------------------------------------------------------------------------
  const INPUT_ROLES = {
    button: "button", submit: "button", reset: "button", image: "button", file: "button",
    checkbox: "checkbox", radio: "radio", range: "slider", number: "spinbutton",
    search: "searchbox", color: "button",
  };
  const TAG_ROLES = {
    article: "article", aside: "complementary", blockquote: "blockquote", button: "button",
    caption: "caption", dd: "definition", details: "group", dialog: "dialog", dt: "term",
    fieldset: "group", figure: "figure", footer: "contentinfo", form: "form", h1: "heading",
    h2: "heading", h3: "heading", h4: "heading", h5: "heading", h6: "heading", header: "banner",
    hr: "separator", iframe: "iframe", li: "listitem", main: "main", menu: "list",
    meter: "meter", nav: "navigation", ol: "list", option: "option", output: "status",
    p: "paragraph", progress: "progressbar", section: "region", summary: "button",
    table: "table", tbody: "rowgroup", td: "cell", textarea: "textbox", tfoot: "rowgroup",
    thead: "rowgroup", tr: "row", ul: "list",
  };
  // A group without a name of its own says nothing: its children move up.
  const NEEDS_NAME = new Set(["region", "rowgroup", "banner", "contentinfo"]);
  const FIELD_ROLES = new Set([
    "textbox", "searchbox", "combobox", "listbox", "checkbox", "radio", "switch", "spinbutton",
    "slider",
  ]);
  const CONTROL_ROLES = new Set([
    ...FIELD_ROLES, "button", "tab", "menuitem", "menuitemcheckbox", "menuitemradio",
    "columnheader", "menu", "menubar", "tablist", "toolbar", "radiogroup",
  ]);
  const NAMED_BY_CONTENT = new Set([
    "button", "link", "tab", "menuitem", "menuitemcheckbox", "menuitemradio", "option",
    "heading", "columnheader", "rowheader", "checkbox", "radio", "switch", "treeitem", "term",
    "tooltip", "caption",
  ]);
  const MIXED = new Set(["generic", "paragraph", "heading", "listitem"]);
  const BORROWS = new Set([
    "cell", "gridcell", "definition", "term", "listitem", "heading", "link", "button", "tab",
    "menuitem", "option", "columnheader", "rowheader", "paragraph", "caption",
  ]);

  function roleOf(el) {
    const given = (el.getAttribute("role") || "").trim().split(/\s+/)[0].toLowerCase();
    if (given && given !== "none" && given !== "presentation") return given;
    const tag = el.localName;
    if (tag === "a" || tag === "area") return el.hasAttribute("href") ? "link" : "generic";
    if (tag === "input") {
      if (el.hasAttribute("list")) return "combobox";
      return INPUT_ROLES[el.type] || "textbox";
    }
    if (tag === "select") return el.multiple || el.size > 1 ? "listbox" : "combobox";
    if (tag === "th") return headerRole(el);
    if (tag === "img") return el.getAttribute("alt") === "" ? "generic" : "img";
    if (given) return "generic";
    if (tag === "svg") return el.getAttribute("aria-label") ? "img" : "generic";
    if (isEditable(el) && !(el.parentElement && isEditable(el.parentElement))) {
      return "textbox";
    }
    return TAG_ROLES[tag] || "generic";
  }

  function headerRole(th) {
    if (/^row/.test(th.scope)) return "rowheader";
    if (/^col/.test(th.scope) || th.closest("thead")) return "columnheader";
    const cells = th.parentElement ? th.parentElement.children : [];
    return [...cells].some((cell) => cell.localName === "td") ? "rowheader" : "columnheader";
  }

  // ---- names and labels ----------------------------------------------------------------------
  function textOf(el, skip) {
    let text = "";
    const walk = (node) => {
      if (text.length > 2 * MAX_CHARS || node === skip) return;
      if (node.nodeType === 3) {
        text += node.data;
      } else if (node.nodeType === 1 && node.localName !== "select"
          && node.localName !== "script" && node.localName !== "style"
          && node.localName !== "textarea" && node.checkVisibility()) {
        if (isSecret(node)) return;
        if (node.localName === "img") text += " " + (node.getAttribute("alt") || "") + " ";
        const block = !/^(a|abbr|b|bdi|code|em|font|i|kbd|mark|s|small|span|strong|sub|sup|u)$/
          .test(node.localName);
        if (block) text += " ";
        for (const child of childrenOf(node)) walk(child);
        if (block) text += " ";
      }
    };
    for (const child of childrenOf(el)) walk(child);
    return short(text);
  }

  function referenced(el, attribute) {
    const ids = (el.getAttribute(attribute) || "").trim();
    if (!ids) return "";
    const root = el.getRootNode();
    return short(ids.split(/\s+/).map((id) => {
      const other = root.getElementById && root.getElementById(id);
      return other ? other.getAttribute("aria-label") || textOf(other) : "";
    }).join(" "));
  }

  const ariaName = (el) => referenced(el, "aria-labelledby") || short(el.getAttribute("aria-label"));

  function labelsText(el) {
    return el.labels && el.labels.length
      ? short([...el.labels].map((label) => textOf(label, el)).join(" ")) : "";
  }

  // "Name: <input>" without any label element.
  function textBefore(el) {
    const before = el.previousSibling;
    return before && before.nodeType === 3 ? short(before.data).replace(/\s*[:*]+$/, "") : "";
  }

  function nameOf(el, role) {
    const tag = el.localName;
    const aria = ariaName(el);
    if (aria) return aria;
    if (tag === "input" && /^(submit|reset|button)$/.test(el.type)) {
      return short(el.value) || { submit: "Submit", reset: "Reset", button: "" }[el.type];
    }
    if (tag === "img" || (tag === "input" && el.type === "image")) {
      return short(el.getAttribute("alt") || el.title);
    }
    if (FIELD_ROLES.has(role)) {
      const name = labelsText(el);
      if (name) return name;
      if (tag !== "input" && tag !== "select" && tag !== "textarea"
          && NAMED_BY_CONTENT.has(role)) return textOf(el);
      return short(el.getAttribute("placeholder") || el.title) || textBefore(el);
    }
    if (tag === "fieldset") {
      const legend = el.querySelector(":scope > legend");
      if (legend) return textOf(legend);
    }
    if (tag === "table" && el.caption) return textOf(el.caption);
    if (NAMED_BY_CONTENT.has(role) || tag === "label" || tag === "legend") {
      return textOf(el) || short(el.title);
    }
    return short(el.title);
  }

  function groupName(el) {
    for (let at = parentOf(el); at && at.nodeType === 1; at = parentOf(at)) {
      const role = roleOf(at);
      if (role === "radiogroup" || role === "group" || at.localName === "fieldset") {
        return nameOf(at, role);
      }
    }
    return "";
  }

  function columnOf(cell) {
    let column = 0;
    for (let at = cell.previousElementSibling; at; at = at.previousElementSibling) {
      column += at.colSpan || 1;
    }
    return column;
  }

  const HEADER_CELLS = 'th, [role="columnheader"], [role="rowheader"]';

  // The header texts of a table by column; looked up once for each table of a snapshot.
  function headersOf(table, tables) {
    if (tables.has(table)) return tables.get(table);
    const headers = [];
    const rows = table.rows || table.querySelectorAll('[role="row"]');
    for (const row of [...rows].slice(0, 3)) {
      const cells = [...row.children];
      if (!cells.length || !cells.every((cell) => cell.matches(HEADER_CELLS)
          || !clean(cell.textContent))) break;
      for (const cell of cells) {
        const text = textOf(cell);
        for (let i = 0, at = columnOf(cell); i < (cell.colSpan || 1); i++) {
          headers[at + i] = text || headers[at + i];
        }
      }
    }
    tables.set(table, headers);
    return headers;
  }

  // Labels are [text, whether it is that of a row]: a column's header names a kind of value, a
  // row's is as often a value itself (whose row it is).
  function cellLabel(cell, tables) {
    const table = cell.closest('table, [role="table"], [role="grid"]');
    const row = cell.parentElement;
    if (!table || !row) return ["", false];
    const header = headersOf(table, tables)[columnOf(cell)];
    if (header) return [header, false];
    const rowHeader = row.querySelector(':scope > th, :scope > [role="rowheader"]');
    return rowHeader && rowHeader !== cell ? [textOf(rowHeader), true] : ["", false];
  }

  function termOf(definition) {
    for (let at = definition.previousElementSibling; at; at = at.previousElementSibling) {
      if (at.localName === "dt") return textOf(at);
    }
    return "";
  }

  function labelOf(el, role, tables) {
    if (role === "radio") return [groupName(el) || labelsText(el) || ariaName(el), false];
    if (FIELD_ROLES.has(role)) {
      const own = labelsText(el) || ariaName(el) || short(el.getAttribute("placeholder"))
        || textBefore(el);
      if (own) return [own, false];
    } else if (CONTROL_ROLES.has(role)) {
      return ["", false];
    }
    const holder = el.closest('td, dd, [role="cell"], [role="gridcell"]');
    if (!holder) return ["", false];
    return holder.localName === "dd" ? [termOf(holder), false] : cellLabel(holder, tables);
  }

  // ---- one element ---------------------------------------------------------------------------
  const TEXT_TYPES = new Set([
    "text", "search", "email", "url", "tel", "number", "password", "date", "time", "month",
    "week", "datetime-local", "color", "range",
  ]);
  const isTextField = (el) => (el.localName === "input" && TEXT_TYPES.has(el.type))
    || el.localName === "textarea";

  function editableHost(node) {
    let host = null;
    for (let at = node; at && at.nodeType === 1; at = parentOf(at)) {
      if (at.isContentEditable) host = at;
    }
    return host;
  }

  // The field a person writes in: an input, a textarea, or the outermost editable element.
  function fieldOf(node) {
    if (!node || node.nodeType !== 1) return null;
    return isTextField(node) ? node : editableHost(node);
  }

  function fullValueOf(el) {
    if (isSecret(el)) return null;
    if (el.localName === "input" && el.type === "file") {
      return [...el.files].map((file) => file.name).join(", ");
    }
    if (el.localName === "select") {
      return [...el.selectedOptions].map((option) => clean(option.label)).join(", ");
    }
    if (isTextField(el)) return el.value.slice(0, MAX_VALUE_CHARS);
    if (el.isContentEditable) return el.innerText.trim().slice(0, MAX_VALUE_CHARS);
    return null;
  }

  function valueOf(el, role) {
    if (isSecret(el)) return null;
    if (el.localName === "select" || isTextField(el)
        || (role === "textbox" && isEditable(el))) return short(fullValueOf(el));
    if (el.localName === "progress" || el.localName === "meter") return String(el.value);
    return short(el.getAttribute("aria-valuetext") || el.getAttribute("aria-valuenow")) || null;
  }

  function statesOf(el, role, focused) {
    const states = [];
    const aria = (name) => el.getAttribute("aria-" + name) === "true";
    const native = el.localName === "input" && (el.type === "checkbox" || el.type === "radio");
    if (native ? el.checked : aria("checked")) states.push("checked");
    if (el.matches(":disabled") || aria("disabled")) states.push("disabled");
    if (el === focused) states.push("focused");
    if (el.required === true || aria("required")) states.push("required");
    if (aria("expanded") || (el.localName === "summary" && el.parentElement
        && el.parentElement.open)) states.push("expanded");
    if ((isTextField(el) && el.readOnly) || aria("readonly")) states.push("readonly");
    if (aria("selected")) states.push("selected");
    if (aria("pressed")) states.push("pressed");
    if (aria("invalid")) states.push("invalid");
    return states;
  }

  function rectOf(el) {
    const rect = el.getBoundingClientRect();
    // A check box drawn by its label is itself tiny or transparent: people click the label.
    if (el.localName === "input" && (el.type === "checkbox" || el.type === "radio")
        && (rect.width <= 1 || rect.height <= 1 || getComputedStyle(el).opacity === "0")) {
      for (const label of el.labels || []) {
        const labelRect = label.getBoundingClientRect();
        if (labelRect.width > 1 && labelRect.height > 1) return labelRect;
      }
    }
    return rect;
  }

  function describe(el, role, parent, index, context) {
    const rect = context.rect || rectOf(el);
    const secret = isSecret(el);
    const name = nameOf(el, role);
    const item = { index, parent, role, tag: el.localName };
    if (el.id) item.id = el.id.slice(0, MAX_CHARS);
    if (name) item.name = name;
    if (name && (CONTROL_ROLES.has(role) || /^(label|legend|dt)$/.test(el.localName))) {
      item.control = true;
    }
    const [label, ofRow] = labelOf(el, role, context.tables);
    if (label) item.label = label;
    if (label && ofRow) item.row_label = true;
    if (context.text && !secret) item.text = context.text;
    if (secret) item.secret = true;
    const value = valueOf(el, role);
    if (value !== null) item.value = value;
    const states = statesOf(el, role, context.focused);
    if (states.length) item.states = states;
    if (el.localName === "select") {
      item.options = [...el.options].slice(0, MAX_CHARS).map((option) => short(option.label));
    }
    const classes = classesOf(el);
    if (classes.length) item.classes = classes;
    const drawn = SHAPES.has(el.localName);
    const colour = (context.text || name) && !drawn ? null : colourOf(el);
    if (colour) item.colour = colour;
    item.box = [rect.x, rect.y, rect.width, rect.height].map((v) => Math.round(v * 10) / 10);
    return item;
  }

  // Style classes, but those that only say where pointer and focus are.
  function classesOf(el) {
    const given = el.getAttribute("class");
    return given ? clean(given).split(" ").filter((word) => word && !POINTED.test(word))
      .slice(0, MAX_CLASSES).map((word) => word.slice(0, MAX_CLASS_CHARS)) : [];
  }

  // The colour of what shows nothing else: a swatch, or what is drawn, texts too.
  function colourOf(el) {
    if (SHAPES.has(el.localName)) return getComputedStyle(el).fill;
    if (el.childElementCount) return null;
    const colour = getComputedStyle(el).backgroundColor;
    return colour.startsWith("rgb(") ? colour : null;
  }

  // ---- the tree ------------------------------------------------------------------------------
  const SKIPPED = new Set([
    "script", "style", "template", "noscript", "head", "meta", "link", "title", "option",
    "optgroup", "datalist", "source", "track", "param", "br", "wbr", "object", "embed", "canvas",
  ]);

  const INLINE = new Set(["a", "b", "code", "em", "i", "mark", "small", "span", "strong", "u"]);

  function ownText(el, role) {
    if (el.localName === "textarea" || isEditable(el)) return "";
    let text = "";
    let inline = MIXED.has(role);
    let mixed = false;
    for (const child of childrenOf(el)) {
      if (child.nodeType === 3) {
        text += " " + child.data;
      } else if (child.nodeType === 1) {
        mixed = true;
        inline = inline && INLINE.has(child.localName);
      }
    }
    text = text && short(text);
    return text && mixed && inline ? textOf(el) : text; // a sentence with words set in bold
  }

  // <td><span>Anna</span></td> reads as one cell: a single plain wrapper lends its text.
  function lentText(el, role) {
    if (!BORROWS.has(role)) return ["", null];
    let only = el;
    for (;;) {
      const children = [...childrenOf(only)].filter((child) => child.nodeType === 1
        && !SKIPPED.has(child.localName));
      if (children.length !== 1) return ["", null];
      [only] = children;
      if (roleOf(only) !== "generic" || only.localName === "label" || clickable(only)
          || !only.checkVisibility()) return ["", null];
      const text = ownText(only, roleOf(only));
      if (text) return only.childElementCount ? ["", null] : [text, only];
    }
  }

  function clickable(el) {
    if (el.hasAttribute("onclick") || el.hasAttribute("tabindex")) return true;
    if (getComputedStyle(el).cursor !== "pointer") return false;
    const parent = parentOf(el);
    return !(parent && parent.nodeType === 1 && getComputedStyle(parent).cursor === "pointer");
  }

  // Return {items, nodes, places}: descriptions, their elements, and element -> index.
  function take(focused) {
    const items = [];
    const nodes = [];
    const places = new Map();
    const context = { focused, tables: new Map(), text: "" };
    shapes = 0;
    mayEdit = document.designMode === "on" || document.querySelector("[contenteditable]") !== null;
    const visit = (el, parent, lent) => {
      if (items.length >= MAX_ELEMENTS || SKIPPED.has(el.localName)) return;
      const shown = el.checkVisibility();
      if (!shown && getComputedStyle(el).display !== "contents") return;
      if (el.getAttribute("aria-hidden") === "true"
          && !el.matches("input, select, textarea, a, button")) return; // hidden from readers, not from eyes
      const role = roleOf(el);
      let text = ownText(el, role);
      let lender = null;
      if (!text && shown) [text, lender] = lentText(el, role);
      let at = parent;
      const rect = el !== lent && shown && wanted(el, role, text) ? rectShown(el) : null;
      if (rect) {
        at = items.length;
        context.text = text;
        context.rect = rect;
        places.set(el, at);
        nodes.push(el);
        items.push(describe(el, role, parent, at, context));
      } else {
        lender = lent;
      }
      if (/^(select|textarea)$/.test(el.localName) || isEditable(el)) return;
      for (const child of childrenOf(el)) if (child.nodeType === 1) visit(child, at, lender);
    };
    if (document.body) visit(document.body, null, null);
    return { items, nodes, places, t: Date.now() };
  }

  let shapes = 0;

  function wanted(el, role, text) {
    if (el === document.body) return Boolean(text);
    if (SHAPES.has(el.localName)) return (shapes += 1) <= MAX_SHAPES;
    if (el instanceof SVGElement && el.localName !== "svg") return false;
    if (role === "generic" && !text && el.localName !== "a" && !clickable(el) && !isIcon(el)
        && !repeats(el)) return false;
    return !NEEDS_NAME.has(role) || Boolean(text || ariaName(el));
  }

  // Drawn by its style alone.
  function isIcon(el) {
    return !el.childElementCount && el.localName !== "svg"
      && Boolean(el.id || classesOf(el).length || colourOf(el));
  }

  // The item of a list that has no tags of one: a sibling is built alike.
  function repeats(el) {
    const [kind] = el.childElementCount ? classesOf(el) : [];
    if (!kind) return false;
    const alike = (other) => other && other.localName === el.localName
      && classesOf(other)[0] === kind;
    return alike(el.previousElementSibling) || alike(el.nextElementSibling);
  }

  function rectShown(el) {
    const rect = rectOf(el);
    if (rect.width <= 0 || rect.height <= 0) return null;
    return el.checkVisibility({ visibilityProperty: true }) ? rect : null;
  }

  // Where `part` stands in `text` with no letter or digit right beside it, or -1.
  function placeIn(text, part) {
    const glued = (letter) => letter !== undefined && /[\p{L}\p{N}_]/u.test(letter);
    for (let at = text.indexOf(part); at >= 0; at = text.indexOf(part, at + 1)) {
      if (!glued(text[at - 1]) && !glued(text[at + part.length])) return at;
    }
    return -1;
  }

  const wat = { mode };
  globalThis.wat = wat;

  const LOAD_PAUSE_MS = 150; // a page that has just arrived is read after this, or before an action
  const SCROLL_PAUSE_MS = 400;

  // ---- watching ------------------------------------------------------------------------------
  const ACTIONABLE = new Set([
    ...FIELD_ROLES, "button", "link", "tab", "menuitem", "menuitemcheckbox", "menuitemradio",
    "option", "treeitem",
  ]);
  const LINE_KEYS = new Set(["ArrowUp", "ArrowDown", "Escape"]); // mean something in a text field
  const KEYS = new Set([
    ...LINE_KEYS, "ArrowLeft", "ArrowRight", "Home", "End", "Backspace", "Delete", "Enter",
    "F1", "F2", "F3", "F4", "F5", "F6", "F7", "F8", "F9", "F10", "F11", "F12",
  ]);
  const CLIPBOARD = new Set(["c", "x", "v"]); // seen as copy, cut and paste
  const EDITING = new Set([
    ...CLIPBOARD, "a", "z", "y", "Backspace", "Delete", "ArrowLeft", "ArrowRight", "Home", "End",
  ]);
  const MODIFIERS = new Set(["Control", "Shift", "Alt", "Meta", "AltGraph", "CapsLock"]);

  function watch() {
    let pressed = null; // {el, snap}: the page at the last pointerdown
    let keyed = null; // {el, snap}: the page at the last key that may act on a control
    let reach = null; // whichever of the two may be about to move the focus
    let focus = null; // {el, snap, value, prior}: how the focused field was reached
    let edit = null; // {el, snap, before, t}: a field that is being written in
    let choice = null; // {el, snap, t}: a select that is being changed by keys
    let labelled = null; // the control whose label was clicked
    let inField = false; // Enter in a field: the browser clicks the form's button by itself
    let arrived = null; // time of a navigation that is not reported yet
    let scrolled = null; // {count, timer}
    const isTop = window.top === window;

    function post(action, el, snap, more) {
      const message = { action, t: Date.now(), url: location.href, title: short(document.title) };
      if (snap) message.items = snap.items;
      if (el && snap && snap.places.has(el)) {
        message.index = snap.places.get(el);
      } else if (el) {
        const context = { focused: null, tables: new Map(), text: ownText(el, roleOf(el)) };
        message.element = describe(el, roleOf(el), null, null, context);
      }
      globalThis.watEmit(toJson(Object.assign(message, more)));
    }

    // What a click is on: the control around it, else the nearest element of the snapshot.
    function actedOn(node, snap) {
      let nearest = null;
      for (let at = node; at && at.nodeType === 1; at = parentOf(at)) {
        if (!snap.places.has(at)) continue;
        if (ACTIONABLE.has(snap.items[snap.places.get(at)].role)) return at;
        nearest = nearest || at;
      }
      return nearest || (node && node.nodeType === 1 ? node : null);
    }

    function reportArrival() {
      if (arrived === null) return;
      const t = arrived;
      arrived = null;
      post("navigate", null, take(activeElement()), { t });
    }

    function reportScroll() {
      if (!scrolled) return;
      const { count, timer, t } = scrolled;
      clearTimeout(timer);
      scrolled = null;
      post("scroll", null, null, { count, t });
    }

    function reportEdit(value = undefined) {
      if (!edit) return;
      const { el, snap, before, t } = edit;
      edit = null;
      if (focus && focus.el === el) focus.snap = focus.prior = null;
      const now = value === undefined ? fullValueOf(el) : value;
      if (isSecret(el)) post("edit", el, snap, { t, shown: whereShown(el, snap) });
      else if (now !== before) post("edit", el, snap, { t, value: now });
    }

    // Where the snapshot shows the very text that a secret field holds, as an instruction may.
    function whereShown(el, snap) {
      const secret = isTextField(el) ? el.value : "";
      if (!secret || !snap) return null;
      for (const item of snap.items) {
        const start = placeIn(item.text || "", secret);
        if (start >= 0) return { index: item.index, start, end: start + secret.length };
      }
      return null;
    }

    function reportChoice() {
      if (!choice) return;
      const { el, snap, t, before } = choice;
      choice = null;
      const value = fullValueOf(el);
      if (value !== before) post("select", el, snap, { t, value });
    }

    // Everything that came before an action is reported before it.
    function report(keep = null) {
      reportArrival();
      reportScroll();
      if (edit && edit.el !== keep) reportEdit();
      if (choice && choice.el !== keep) reportChoice();
    }

    function beginEdit(field, valueBefore) {
      if (edit && edit.el === field) return;
      report(field);
      const reached = focus && focus.el === field ? focus : null;
      let snap = reached && reached.snap;
      if (!snap || Date.now() - snap.t > FOCUS_AGE_MS) {
        snap = take(reached ? reached.prior : activeElement());
      }
      edit = { el: field, snap, before: valueBefore, t: Date.now() };
    }

    const on = (type, handler) => addEventListener(type, (event) => {
      if (event.isTrusted) handler(event, event.composedPath()[0]);
    }, { capture: true, passive: true });

    on("pointerdown", (event, target) => {
      inField = false;
      reportArrival();
      pressed = reach = { el: target, snap: take(activeElement()) };
    });

    on("focusin", (event, target) => {
      const el = fieldOf(target) || (target.localName === "select" ? target : null);
      if (!el) {
        focus = null;
        return;
      }
      const before = reach && Date.now() - reach.snap.t < 500 ? reach.snap : null;
      reach = null;
      focus = { el, snap: before, value: fullValueOf(el), prior: event.relatedTarget };
    });

    on("focusout", (event, target) => {
      if (edit && edit.el === fieldOf(target)) report();
      if (choice && choice.el === target) report();
    });

    on("click", (event, target) => {
      const label = target.closest ? target.closest("label") : null;
      if (label && label.control && !contains(label.control, target)
          && !(target.closest("a, button"))) {
        labelled = label.control; // the browser now clicks the control itself
        return;
      }
      const byLabel = labelled !== null && labelled === target;
      labelled = null;
      const byKey = event.pointerId === -1 && !byLabel;
      if (byKey && inField) return;
      if (target.localName === "select" || target.localName === "option") return;
      if (event.detail === 2 && !byLabel) return; // told as a double-click
      const source = byKey ? keyed : pressed;
      const snap = source ? source.snap : take(activeElement());
      report(fieldOf(target));
      const el = actedOn(target, snap);
      const toggles = el.localName === "input" && (el.type === "checkbox" || el.type === "radio");
      post("click", el, snap, toggles ? { value: String(el.checked) } : {});
    });

    on("dblclick", (event, target) => {
      if (!pressed || target.localName === "select") return;
      report(fieldOf(target));
      post("double-click", actedOn(target, pressed.snap), pressed.snap, { count: 2 });
    });

    on("beforeinput", (event, target) => {
      const field = fieldOf(target);
      if (field) beginEdit(field, fullValueOf(field));
    });

    on("input", (event, target) => {
      if (target.localName === "select") return;
      const field = fieldOf(target);
      if (!field) return;
      if (!edit || edit.el !== field) { // pickers and spin buttons have no beforeinput
        const before = focus && focus.el === field ? focus.value : null;
        beginEdit(field, before);
        const place = edit.snap.places.get(field);
        if (place !== undefined && before !== null) edit.snap.items[place].value = short(before);
      }
      edit.t = Date.now();
    });

    on("change", (event, target) => {
      if (target.localName !== "select") return;
      const byPointer = pressed && pressed.el === target;
      const reached = focus && focus.el === target ? focus : null;
      if (!choice || choice.el !== target) {
        const source = byPointer ? pressed : keyed && keyed.el === target ? keyed : null;
        const snap = source ? source.snap : (reached && reached.snap) || take(activeElement());
        choice = { el: target, snap, before: reached ? reached.value : null };
      }
      choice.t = Date.now();
      if (byPointer) {
        report();
        if (reached) reached.value = fullValueOf(target);
      }
    });

    on("submit", () => report());
    on("copy", (event, target) => copied("copy", target));
    on("cut", (event, target) => copied("cut", target));
    on("paste", (event, target) => {
      if (fieldOf(target)) return; // part of the edit
      const snap = take(activeElement());
      report();
      post("paste", actedOn(target, snap), snap, {});
    });

    function copied(action, target) {
      const field = fieldOf(target);
      if (isSecret(field)) return;
      let value;
      let node = target;
      if (field && isTextField(field)) {
        value = field.value.slice(field.selectionStart, field.selectionEnd);
      } else {
        const selection = getSelection();
        value = selection.toString();
        if (selection.rangeCount) node = selection.getRangeAt(0).commonAncestorContainer;
        if (node.nodeType !== 1) node = parentOf(node);
      }
      const snap = take(activeElement());
      report(field);
      post(action, field || actedOn(node, snap), snap, { value: value.slice(0, MAX_VALUE_CHARS) });
    }

    on("wheel", () => {
      if (!scrolled) scrolled = { count: 0, timer: 0, t: Date.now() };
      scrolled.count += 1;
      clearTimeout(scrolled.timer);
      scrolled.timer = setTimeout(reportScroll, SCROLL_PAUSE_MS);
    });

    function keyName(event) {
      const key = event.key === " " ? "Space" : event.key.length === 1
        ? event.key.toUpperCase() : event.key;
      const parts = [];
      if (event.ctrlKey) parts.push("Control");
      if (event.altKey) parts.push("Alt");
      if (event.metaKey) parts.push("Meta");
      if (event.shiftKey && parts.length) parts.push("Shift");
      return [...parts, key].join("+");
    }

    function pressedKey(event, target, action) {
      const active = activeElement();
      const snap = take(active);
      report();
      post(action, active ? actedOn(target, snap) : null, snap, { keys: keyName(event) });
    }

    // Enter in a text of several lines is text, unless the page takes it for something else.
    function enterInLines(event, target, field) {
      const snap = take(activeElement());
      const value = fullValueOf(field);
      setTimeout(() => {
        if (!event.defaultPrevented) return;
        reportArrival();
        if (edit && edit.el === field) reportEdit(value);
        report();
        post("key", field, snap, { keys: "Enter" });
      });
    }

    on("keydown", (event, target) => {
      inField = false;
      reach = null;
      if (event.isComposing || MODIFIERS.has(event.key)) return;
      const field = fieldOf(target);
      if (event.ctrlKey || event.altKey || event.metaKey) {
        if (event.getModifierState("AltGraph")) return;
        const known = field ? EDITING : CLIPBOARD;
        const letter = event.key.length === 1 ? event.key.toLowerCase() : event.key;
        if (!known.has(letter)) pressedKey(event, target, "hot-key");
        return;
      }
      if (event.repeat) return;
      if (event.key === "Tab") {
        reach = { el: target, snap: take(activeElement()) };
        return;
      }
      if (target.localName === "select") {
        if (!choice) keyed = { el: target, snap: take(activeElement()) };
        return;
      }
      const checks = target.localName === "input" && /^(checkbox|radio)$/.test(target.type);
      const clicks = target.matches && target.matches("a[href], button, summary, input")
        && !isTextField(target);
      if (event.key === " " || (event.key === "Enter" && clicks && !checks)
          || (checks && event.key.startsWith("Arrow"))) {
        if (clicks) keyed = { el: target, snap: take(activeElement()) }; // a click follows
        return;
      }
      if (!KEYS.has(event.key)) return;
      if (field && event.key === "Enter") {
        if (field.localName !== "input") return enterInLines(event, target, field);
        inField = true;
      } else if (field && !LINE_KEYS.has(event.key)) {
        return;
      } else if (field && field.localName !== "input" && event.key !== "Escape") {
        return;
      } else if (event.key === "Enter") {
        inField = checks;
      }
      pressedKey(event, target, "key");
    });

    on("keyup", () => { inField = false; });

    if (!isTop) {
      on("pagehide", () => report());
      return;
    }
    const web = /^(https?|file):$/.test(location.protocol);
    const arrive = () => {
      arrived = arrived === null ? Date.now() : arrived;
      setTimeout(reportArrival, LOAD_PAUSE_MS);
    };
    if (web && document.readyState !== "loading") {
      if (isNew) arrive();
    } else if (web) {
      arrived = Date.now();
      addEventListener("DOMContentLoaded", () => setTimeout(reportArrival, LOAD_PAUSE_MS));
    }
    let here = location.href;
    if (globalThis.navigation) {
      navigation.addEventListener("currententrychange", () => {
        if (location.href === here) return;
        here = location.href;
        arrive();
      });
    }
    on("pageshow", (event) => { if (event.persisted) arrive(); });
    on("pagehide", () => report());
    on("visibilitychange", () => { if (document.hidden) report(); });
  }

  // ---- acting --------------------------------------------------------------------------------
  function act() {
    let seen = { items: [], nodes: [] };
    let token = "";
    let changed = performance.now();
    new MutationObserver(() => { changed = performance.now(); }).observe(document, {
      subtree: true, childList: true, attributes: true, characterData: true,
    });

    wat.toJson = toJson;
    wat.quiet = () => ({ idle_ms: performance.now() - changed, ready: document.readyState });

    wat.observe = () => {
      seen = take(activeElement());
      token = Math.random().toString(36); // never that of a page kept for going back to
      return { token, url: location.href, title: short(document.title), items: seen.items };
    };

    const inWords = (el) => {
      for (let at = el; at && at.nodeType === 1; at = parentOf(at)) {
        const role = roleOf(at);
        const name = nameOf(at, role) || ownText(at, role);
        if (role !== "generic" || name) return name ? `${role} "${name}"` : role;
      }
      return "another element";
    };

    function hitAt(x, y) {
      let hit = document.elementFromPoint(x, y);
      while (hit && hit.shadowRoot) {
        const inner = hit.shadowRoot.elementFromPoint(x, y);
        if (!inner || inner === hit) break;
        hit = inner;
      }
      return hit;
    }

    const belongs = (el, hit) => contains(el, hit)
      || [...(el.labels || [])].some((label) => contains(label, hit));

    function pointOn(el) {
      const view = { width: document.documentElement.clientWidth, height: innerHeight };
      const rects = [...el.getClientRects()].filter((rect) => rect.width > 1 && rect.height > 1);
      let cover = null;
      for (const rect of rects.length ? rects : [rectOf(el)]) {
        for (const [dx, dy] of [[0.5, 0.5], [0.2, 0.5], [0.8, 0.5], [0.5, 0.2], [0.5, 0.8]]) {
          const x = rect.x + rect.width * dx;
          const y = rect.y + rect.height * dy;
          if (x < 0 || y < 0 || x >= view.width || y >= view.height) continue;
          const hit = hitAt(x, y);
          if (hit && belongs(el, hit)) return { x, y };
          cover = cover || hit;
        }
      }
      return { why: cover ? `covered by ${inWords(cover)}` : "outside the visible area" };
    }

    // The element of the last observation, or why it can no longer be used.
    function find(seenToken, index) {
      const el = seen.nodes[index];
      if (seenToken !== token || !el) return { why: "from an older observation" };
      if (!el.isConnected) return { why: "no longer on the page" };
      const rect = rectOf(el);
      if (rect.width <= 0 || rect.height <= 0 || !el.checkVisibility({ visibilityProperty: true })) {
        return { why: "no longer visible" };
      }
      return { el };
    }

    wat.locate = (seenToken, index) => {
      const { el, why } = find(seenToken, index);
      if (why) return { why };
      if (el.matches(":disabled") || el.getAttribute("aria-disabled") === "true") {
        return { why: "disabled" };
      }
      let point = pointOn(el);
      if (point.why) {
        el.scrollIntoView({ block: "center", inline: "nearest", behavior: "instant" });
        point = pointOn(el);
      }
      return point;
    };

    wat.field = (seenToken, index) => {
      const { el, why } = find(seenToken, index);
      if (why) return { why };
      const field = el.localName === "select" ? el : fieldOf(el);
      if (!field) return { why: "not a field" };
      if (field.readOnly || field.getAttribute("aria-readonly") === "true") {
        return { why: "read-only" };
      }
      return {
        tag: field.localName, type: field.type || "", value: fullValueOf(field),
        secret: isSecret(field),
        focused: activeElement() === field,
        options: field.localName === "select" ? [...field.options].map((option) => ({
          text: clean(option.label), disabled: option.matches(":disabled"),
          selected: option.selected,
        })) : [],
        multiple: field.multiple === true,
      };
    };

    // Where one option of a list that shows several stands.
    wat.option = (seenToken, index, place) => {
      const { el, why } = find(seenToken, index);
      if (why) return { why };
      const option = el.options[place];
      option.scrollIntoView({ block: "nearest", behavior: "instant" });
      const rect = option.getBoundingClientRect();
      return rect.width && rect.height
        ? { x: rect.x + rect.width / 2, y: rect.y + rect.height / 2 }
        : { why: "not showing its options" };
    };

    // Whether the last observation shows the text for all to see.
    wat.shows = (text) => seen.items.some((item) => placeIn(item.text || "", text) >= 0);

    // Whether a field holds the text, without telling what it holds.
    wat.holds = (seenToken, index, text) => {
      const { el, why } = find(seenToken, index);
      return why ? { why } : { holds: isTextField(el) && el.value === text };
    };

    wat.focus = (seenToken, index) => {
      const { el, why } = find(seenToken, index);
      if (why) return { why };
      if (activeElement() !== el) el.focus();
      return activeElement() === el || contains(el, activeElement())
        ? {} : { why: "not able to take the focus" };
    };

    wat.blur = () => {
      const active = activeElement();
      if (active) active.blur();
      return {};
    };

    wat.link = (seenToken, index) => {
      const { el, why } = find(seenToken, index);
      if (why) return { why };
      const link = el.closest("a[href]");
      const plain = link && !link.hasAttribute("download") && !link.hasAttribute("onclick")
        && (!link.target || link.target === "_self");
      return plain ? { href: link.href } : { why: "not a plain link" };
    };
  }

  if (mode === "watch") watch();
  else act();
}
