// What both pages make elements with. A text is always set as text: none of it is ever read as HTML.

/** An element. `given`: its properties, or attributes where they have a dash; children: elements or texts. */
export function make(tag, given = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (name.includes("-") || name === "role") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

/** A table of rows under a line of titles; the first cell of each row is its title. */
export function table(titles, rows) {
  const head = make("tr", {}, ...titles.map((title) => make("th", { scope: "col" }, title)));
  const body = rows.map(([first, ...rest]) =>
    make("tr", {}, make("th", { scope: "row" }, first), ...rest.map((cell) => make("td", {}, cell))));
  return make("table", { className: "fields-of" }, make("thead", {}, head), make("tbody", {}, ...body));
}
