import assert from "node:assert/strict"
import { readdirSync, readFileSync } from "node:fs"
import { test } from "node:test"
import { brotliDecompressSync } from "node:zlib"

const folder = new URL("../../static/", import.meta.url)

// `just web-check` compares all other files byte for byte. Versions of Brotli may compress differently.
test("the compressed files have the content of the files beside them", () => {
  const compressed = readdirSync(folder).filter(name => name.endsWith(".br"))
  assert.ok(compressed.includes("widget.js.br"))
  for (const name of compressed) {
    const content = brotliDecompressSync(readFileSync(new URL(name, folder)))
    assert.ok(content.equals(readFileSync(new URL(name.slice(0, -3), folder))), name)
  }
})
