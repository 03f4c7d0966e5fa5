// Reads an AsyncAPI document from the file named first and prints what the parser finds in it, as JSON.
const { readFileSync } = require("node:fs");
const { Parser } = require("@asyncapi/parser");

new Parser().parse(readFileSync(process.argv[2], "utf8")).then(({ document, diagnostics }) => {
  const found = diagnostics.map(({ code, message, path, severity }) => ({ code, message, path, severity }));
  const operations = document ? document.operations().all().map((operation) => operation.id()) : [];
  console.log(JSON.stringify({ valid: document !== undefined, operations, found }));
});
