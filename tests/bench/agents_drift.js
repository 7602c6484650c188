// Changes to a page that leave its task as it is, a recorder of what was done on it, and stamps that
// find the same element on the changed page. Runs in the page's own world after the page was loaded.
// The page's scripts go on seeing the old names: whoever reads the tree from outside sees the new.
window.drift = (() => {
  const PREFIX = "q7-", old = new Map();
  let isRenaming = false;
  const fresh = (name) => {
    if (!name || name.startsWith(PREFIX)) return name;
    let hash = 7;
    for (const c of name) hash = (hash * 31 + c.charCodeAt(0)) >>> 0;
    const made = PREFIX + hash.toString(36);
    old.set(made, name);
    return made;
  };
  const words = (text, change) => String(text).split(/(\s+)/).map(change).join("");
  const toNew = (text) => words(text, fresh);
  const toOld = (text) => text && words(text, (name) => old.get(name) || name);
  const selector = (text) => typeof text !== "string" ? text
    : text.replace(/([#.])(-?[A-Za-z_][\w-]*)/g, (_, sigil, name) => sigil + fresh(name));

  const NAMED = { id: "id", class: "className" };
  const get = Element.prototype.getAttribute, set = Element.prototype.setAttribute;
  function rename(el) {
    for (const attribute of Object.keys(NAMED)) {
      const value = get.call(el, attribute);
      if (value && toNew(value) !== value) set.call(el, attribute, toNew(value));
    }
  }
  function renameAll(root) {
    if (root.nodeType !== 1) return;
    rename(root);
    for (const el of all.call(root, "*")) rename(el);
  }
  const all = Element.prototype.querySelectorAll;
  const observer = new MutationObserver((records) => taken(records));
  function taken(records) {
    for (const record of records) for (const node of record.addedNodes) renameAll(node);
  }
  // What was written as markup a moment ago is renamed before it is asked for.
  const upToDate = () => isRenaming && taken(observer.takeRecords());

  function translate() {
    const wrap = (owner, name, change) => {
      const original = owner[name];
      owner[name] = function (...given) { upToDate(); return change(original, this, given); };
    };
    for (const owner of [Document.prototype, Element.prototype, DocumentFragment.prototype]) {
      for (const name of ["querySelector", "querySelectorAll", "matches", "closest",
        "webkitMatchesSelector"])
        if (owner[name]) wrap(owner, name, (f, self, [text]) => f.call(self, selector(text)));
      if (owner.getElementsByClassName) wrap(owner, "getElementsByClassName",
        (f, self, [text]) => f.call(self, toNew(text)));
      if (owner.getElementById) wrap(owner, "getElementById",
        (f, self, [text]) => f.call(self, fresh(String(text))));
    }
    wrap(Element.prototype, "getAttribute", (f, self, [name]) => {
      const value = f.call(self, name);
      return name in NAMED ? toOld(value) : value;
    });
    wrap(Element.prototype, "setAttribute", (f, self, [name, value]) =>
      f.call(self, name, name in NAMED ? toNew(value) : value));
    for (const [attribute, property] of Object.entries(NAMED)) {
      Object.defineProperty(Element.prototype, property, {
        configurable: true,
        get() { return toOld(get.call(this, attribute)) || ""; },
        set(value) { set.call(this, attribute, toNew(value)); },
      });
    }
    for (const name of ["add", "remove", "contains", "toggle"]) {
      wrap(DOMTokenList.prototype, name, (f, self, [first, ...rest]) =>
        f.call(self, fresh(String(first)), ...rest.map((x) => typeof x === "string" ? fresh(x) : x)));
    }
  }

  const area = () => document.getElementById("area") || document.body;
  const goal = () => (window.core && core.getUtterance ? JSON.stringify(core.getUtterance()) : "");
  function boxed(tag) {
    const made = document.createElement(tag);
    made.dataset.k = "-";
    return made;
  }
  function styled(css) {
    const made = boxed("style");
    made.textContent = css;
    document.head.append(made);
  }

  const CHANGES = {
    none() {},
    names() {
      for (const sheet of document.styleSheets)
        for (const rule of sheet.cssRules)
          if (rule.selectorText) rule.selectorText = selector(rule.selectorText);
      renameAll(document.body);
      translate();
      isRenaming = true;
      observer.observe(document.body, { childList: true, subtree: true });
    },
    nesting() {
      for (const el of [...area().children]) {
        if (el.matches("br, script, style")) continue;
        const outer = boxed("section"), inner = boxed("div");
        el.replaceWith(outer);
        outer.append(inner);
        inner.append(el);
      }
    },
    labels() {
      for (const label of area().querySelectorAll("label")) {
        const control = label.querySelector("input, select, textarea");
        if (control) label.append(control);
        else if (label.nextElementSibling
          && label.nextElementSibling.matches("input, select, textarea")) {
          const line = boxed("div");
          label.before(line);
          line.append(label);
        }
      }
    },
    theme() {
      styled(`body, #wrap, #area { background: #1f2530; color: #e8e6df; }
        #area * { font-family: Georgia, serif !important; }
        #area button, #area input, #area select, #area textarea {
          background: #34495e; color: #fdfdfd; border: 2px solid #9ab; border-radius: 7px; }
        #area a, #area .alink { color: #8fd3ff; text-decoration: none; }`);
    },
    size() {
      styled("body { zoom: 1.3 } #area button { letter-spacing: 1px }");
    },
    order() {
      if (/\b(\d+(st|nd|rd|th)|first|second|third|last|order|next|previous|above|below)\b/i
        .test(goal())) return;
      for (const parent of [area(), ...area().querySelectorAll("div, p, ul, ol, form, fieldset")]) {
        const byTag = new Map();
        for (const child of parent.children) {
          if (!child.matches("label, button, li, div, span, p, input")) continue;
          byTag.set(child.tagName, [...(byTag.get(child.tagName) || []), child]);
        }
        for (const alike of byTag.values()) {
          if (alike.length < 3) continue;
          const places = alike.map((el) => {
            const place = document.createComment("");
            el.before(place);
            return place;
          });
          alike.reverse().forEach((el, i) => places[i].replaceWith(el));
        }
      }
    },
  };

  let count = 0;
  function stamp(root) {
    if (root.nodeType !== 1) return;
    for (const el of [root, ...all.call(root, "*")])
      if (!el.hasAttribute("data-k")) el.setAttribute("data-k", String(count++));
  }
  const done = [];
  const where = (el) => el.closest("[data-k]").getAttribute("data-k");
  function record() {
    addEventListener("mousedown", (event) => {
      const box = event.target.getBoundingClientRect();
      done.push({ op: "click", at: where(event.target),
        x: (event.clientX - box.left) / (box.width || 1),
        y: (event.clientY - box.top) / (box.height || 1) });
    }, true);
    const written = (event) => {
      const el = event.target, op = el.matches("select") ? "select" : "fill";
      if (el.matches("[type=checkbox], [type=radio]")) return;
      const last = done[done.length - 1], at = where(el);
      const value = op === "select" ? [...el.selectedOptions].map((o) => o.value) : el.value;
      if (last && last.op === op && last.at === at) last.value = value;
      else done.push({ op, at, value });
    };
    addEventListener("input", written, true);
    addEventListener("change", written, true);
  }
  return {
    // Number all elements, now and as they come, so that another page of this seed has the same.
    stamp() {
      stamp(document.body);
      new MutationObserver((records) => {
        for (const one of records) for (const node of one.addedNodes) stamp(node);
      }).observe(document.body, { childList: true, subtree: true });
    },
    record,
    done: () => done,
    changes: Object.keys(CHANGES),
    apply(name) { CHANGES[name](); },
    place(at, x, y) {
      const el = document.querySelector(`[data-k="${at}"]`);
      el.scrollIntoView({ block: "nearest", inline: "nearest" });
      const box = el.getBoundingClientRect();
      return [box.left + x * box.width, box.top + y * box.height];
    },
  };
})();
