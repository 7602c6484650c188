// Rows open on a click anywhere, a filter narrows the list, a question may be asked before saving.
for (const table of document.querySelectorAll("table[data-rows]")) {
  table.addEventListener("click", (event) => {
    const link = event.target.closest("tr")?.querySelector("a");
    if (link && !event.target.closest("a")) link.click();
  });
  document.querySelector("input[data-filter]").addEventListener("input", (event) => {
    const wanted = event.target.value.trim().toLowerCase();
    for (const row of table.tBodies[0].rows) {
      row.hidden = !row.textContent.toLowerCase().includes(wanted);
    }
  });
}

const question = document.querySelector("dialog[data-question]");
if (question) {
  const form = document.querySelector("form[data-asks]");
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    question.showModal();
  });
  question.querySelector("[data-yes]").addEventListener("click", () => form.submit());
  question.querySelector("[data-no]").addEventListener("click", () => question.close());
}
